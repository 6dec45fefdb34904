/** A small trained mixture with paged experts over HTTP, its file damaged for a while. */

import { assert, assertEquals } from "@std/assert";
import { createApp } from "../../routes/mod.ts";
import { ExpertReadError } from "../../src/errors.ts";
import { serve } from "../../src/server/serve.ts";
import { loadModel } from "../../src/text/load.ts";
import { TINY_V3 } from "../support/fixtures.ts";

const MODEL = TINY_V3;

interface Served {
  readonly url: string;
  /** The model's file, a copy. */
  readonly path: string;
  /** What the app has reported to its operator. */
  readonly faults: unknown[];
}

async function served(use: (served: Served) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    const path = `${folder}/paged.gguf`;
    await Deno.copyFile(MODEL, path);
    const model = await loadModel({
      ...{ model: path, threads: 2, contextLength: 512, slots: 2 },
      expertCacheBytes: 2 ** 20,
    });
    const faults: unknown[] = [];
    const onError = (error: unknown) => faults.push(error);
    const app = createApp({ model, modelId: "tiny", onError });
    const server = await serve({
      fetch: (request) => app.fetch(request),
      hostname: "127.0.0.1",
      port: 0,
    });
    try {
      await use({ url: server.url, path, faults });
    } finally {
      await server.drain({ deadlineMs: 2_000 });
      await model.close();
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function post(url: string, fields: Record<string, unknown>): Promise<Response> {
  const body = { messages: [{ role: "user", content: "What is 47 + 38?" }], temperature: 0 };
  return fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, max_tokens: 120, ...fields }),
  });
}

async function assertRight(url: string): Promise<void> {
  const response = await post(url, {});
  assertEquals(response.status, 200);
  const { choices } = await response.json();
  assert(choices[0].message.content.includes("85"), choices[0].message.content);
}

const REFUSAL = {
  error: {
    message: "the model's weights cannot be read at present",
    type: "server_error",
    param: null,
    code: "expert_read_failed",
  },
};

Deno.test("a request whose experts cannot be read is answered with an error, the next one right", async () => {
  await served(async ({ url, path, faults }) => {
    await assertRight(url);
    const bytes = await Deno.readFile(path);
    await Deno.truncate(path, 2 ** 20);
    for (let time = 0; time < 2; time++) {
      const response = await post(url, {});
      assertEquals(response.status, 503);
      assertEquals(response.headers.get("retry-after"), "1");
      assertEquals(await response.json(), REFUSAL);
      const health = await fetch(`${url}/health`);
      assertEquals([health.status, (await health.json()).status], [200, "ok"]);
    }
    assertEquals(faults.map((fault) => fault instanceof ExpertReadError), [true, true]);
    await Deno.writeFile(path, bytes);
    await assertRight(url);
  });
});

Deno.test("a stream whose experts cannot be read any more ends with an error event", async () => {
  await served(async ({ url, path, faults }) => {
    const bytes = await Deno.readFile(path);
    const response = await post(url, { stream: true, max_tokens: 400, ignore_eos: true });
    assertEquals(response.status, 200);
    let text = "";
    let spoilt = false;
    for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
      text += piece;
      if (spoilt || !text.includes("content")) continue;
      await Deno.truncate(path, 2 ** 20);
      spoilt = true;
    }
    const events = text.split("\n\n").filter((event) => event !== "")
      .map((event) => event.replace(/^data: /, ""));
    assert(events.length > 2, text);
    assertEquals(JSON.parse(events.at(-1)!), REFUSAL);
    assertEquals(faults.map((fault) => fault instanceof ExpertReadError), [true]);
    await Deno.writeFile(path, bytes);
    await assertRight(url);
    const { layers } = await (await fetch(`${url}/v1/moe/stats`)).json();
    assert(layers.length > 0, "there are layers");
    for (const layer of layers) assert(JSON.stringify(layer).includes("misses"));
  });
});
