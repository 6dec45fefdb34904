/** A real model over HTTP, where its file is there (`SLUICE_MODELS` names the folder). */

import { assert, assertEquals, assertMatch } from "@std/assert";
import OpenAI from "openai";
import { createApp } from "../../routes/mod.ts";
import { serve } from "../../src/server/serve.ts";
import { loadModel } from "../../src/text/load.ts";
import type { TextModel } from "../../src/text/types.ts";
import { downloadedModel } from "../support/fixtures.ts";
import { until } from "./_support.ts";

const FILE = "SmolLM2-135M-Instruct.Q4_1.gguf";
const path = downloadedModel(FILE);
const ignore = path === undefined;
const reason = ignore ? ` (skipped: ${FILE} is not in SLUICE_MODELS)` : "";

async function served(
  activations: "q16" | "f32",
  use: (client: OpenAI, model: TextModel) => Promise<void>,
): Promise<void> {
  const model = await loadModel({ model: path!, activations, contextLength: 2048, slots: 2 });
  const app = createApp({ model, modelId: "smollm2" });
  const server = await serve({
    fetch: (request) => app.fetch(request),
    hostname: "127.0.0.1",
    port: 0,
  });
  try {
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
    await use(client, model);
  } finally {
    await server.drain({ deadlineMs: 2_000 });
    await model.close();
  }
}

const QUESTION = [{ role: "user" as const, content: "What is the capital of France?" }];

for (const activations of ["q16", "f32"] as const) {
  Deno.test({
    name: `SmolLM2 with ${activations} activations says Paris over HTTP${reason}`,
    ignore,
    fn: () =>
      served(activations, async (client) => {
        const asked = { model: "smollm2", messages: QUESTION, temperature: 0, max_tokens: 30 };
        const whole = await client.chat.completions.create(asked);
        assertMatch(whole.choices[0].message.content!, /Paris/);
        assertEquals(whole.choices[0].finish_reason, "stop");
        const stream = await client.chat.completions.create({ ...asked, stream: true });
        let text = "";
        for await (const chunk of stream) text += chunk.choices[0].delta.content ?? "";
        assertEquals(text, whole.choices[0].message.content);
      }),
  });
}

Deno.test({
  name: `SmolLM2 frees the slot of a client that leaves, and answers the next${reason}`,
  ignore,
  fn: () =>
    served("q16", async (client, model) => {
      for (let i = 0; i < 4; i++) {
        const stream = await client.chat.completions.create({
          model: "smollm2",
          messages: [{ role: "user", content: "Count to a thousand." }],
          temperature: 0,
          max_tokens: 1500,
          stream: true,
        });
        for await (const _ of stream) break;
      }
      await until(() => model.stats().running + model.stats().waiting === 0);
      const answer = await client.chat.completions.create({
        model: "smollm2",
        messages: QUESTION,
        temperature: 0,
        max_tokens: 30,
      });
      assertMatch(answer.choices[0].message.content!, /Paris/);
    }),
});

Deno.test({
  name: `SmolLM2 scores a prompt as it generates it${reason}`,
  ignore,
  fn: () =>
    served("q16", async (client) => {
      const base = { model: "smollm2", temperature: 0, logprobs: 1, seed: 1234 };
      const prompt = "The capital of France is";
      const generated = await client.completions.create({ ...base, prompt, max_tokens: 2 });
      const continued = generated.choices[0].logprobs!;
      const scored = await client.completions.create({
        ...base,
        prompt: prompt + generated.choices[0].text,
        max_tokens: 1,
        echo: true,
      });
      const { tokens, token_logprobs: own, top_logprobs: top } = scored.choices[0].logprobs!;
      assertEquals(own![0], null);
      assertEquals(tokens!.slice(-3, -1), continued.tokens);
      // One prefill or step by step: the same bits.
      assertEquals(own!.slice(-3, -1), continued.token_logprobs);
      for (let i = own!.length - 3; i < own!.length; i++) {
        assert(Object.is(own![i], Math.max(...Object.values(top![i]))));
      }
    }),
});
