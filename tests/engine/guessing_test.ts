/** Guessed tokens change how many steps an answer takes, never the answer. */

import { assert, assertEquals } from "@std/assert";
import { openLocalEngine } from "../../src/engine/open_local_engine.ts";
import { MAX_DRAFT } from "../../src/engine/speculation.ts";
import type { Engine, EngineEvent, GenerateRequest } from "../../src/engine/types.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";
import { TINY_V3 } from "../support/fixtures.ts";
import { collect, toyEngine, toyRequest } from "./toy.ts";

/** A model whose answers repeat themselves, so that guesses come true. */
const MODEL = TINY_V3;

const REQUESTS: Partial<GenerateRequest>[] = [
  { maxTokens: 80 },
  { maxTokens: 80, topLogprobs: 4 },
  { maxTokens: 60, routedExperts: "completion" },
  { maxTokens: 60, sampling: { ...NEUTRAL_SAMPLING, temperature: 0.3, seed: 3 } },
  { maxTokens: 60, sampling: { ...NEUTRAL_SAMPLING, repetitionPenalty: 1.1 } },
];

async function answersOf(engine: Engine): Promise<EngineEvent[][]> {
  const prompt = [5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8, 5, 6];
  const all: EngineEvent[][] = [];
  for (const request of REQUESTS) {
    const events = await collect(engine.generate(toyRequest(prompt, request)));
    all.push(events.filter(({ type }) => type === "token" || type === "routing"));
  }
  return all;
}

async function withEngine<T>(
  speculation: "off" | "ngram",
  body: (engine: Engine) => Promise<T>,
): Promise<T> {
  const engine = await openLocalEngine({
    ...{ model: MODEL, backend: "wasm", activations: "q8", threads: 1, slots: 4 },
    ...{ chunkTokens: 32, contextLength: 128, speculation },
    // As much as possible, whatever it costs: what pays depends on the machine.
  }, { draftLength: () => MAX_DRAFT });
  try {
    return await body(engine);
  } finally {
    await engine.close({ graceMs: 0 });
  }
}

Deno.test("guessing changes no token, score or routing, greedy or sampled, and saves steps", async () => {
  const plain = await withEngine("off", answersOf);
  await withEngine("ngram", async (engine) => {
    assertEquals(await answersOf(engine), plain);
    const { drafted, accepted } = engine.stats().speculation;
    assert(drafted > 20, `${drafted} tokens were guessed`);
    assert(accepted > 10 && accepted <= drafted, `${accepted} of them were right`);
  });
});

Deno.test("answers side by side are guessed for each, and are those without guessing", async () => {
  const prompts = [[300, 301, 302, 300, 301, 302, 300, 301], [9, 8, 9, 8, 9, 8], [4, 4, 4, 4]];
  const ask = (engine: Engine) =>
    Promise.all(
      prompts.map((prompt) =>
        collect(engine.generate(toyRequest(prompt, { maxTokens: 70 }))).then((events) =>
          events.filter(({ type }) => type === "token")
        )
      ),
    );
  const plain = await withEngine("off", ask);
  await withEngine("ngram", async (engine) => {
    assertEquals(await ask(engine), plain);
    assert(engine.stats().speculation.accepted > 0);
  });
});

Deno.test("a stop token among accepted guesses ends the answer there", async () => {
  const prompt = [5, 6, 7, 8, 5, 6, 7, 8, 5, 6];
  const tokensOf = (events: EngineEvent[]) =>
    events.flatMap((event) => event.type === "token" ? [event.token] : []);
  const whole = await withEngine(
    "off",
    async (engine) =>
      tokensOf(await collect(engine.generate(toyRequest(prompt, { maxTokens: 90 })))),
  );
  await withEngine("ngram", async (engine) => {
    for (const stop of new Set(whole)) {
      const events = await collect(
        engine.generate(toyRequest(prompt, { maxTokens: 90, stopTokens: [stop] })),
      );
      const done = events.at(-1);
      assert(done?.type === "done" && done.reason === "stop" && done.stopToken === stop);
      assertEquals(tokensOf(events), whole.slice(0, whole.indexOf(stop)));
    }
  });
});

Deno.test("without being asked for, nothing is guessed", async () => {
  const { engine } = toyEngine();
  await collect(engine.generate(toyRequest([1, 2, 1, 2, 1, 2], { maxTokens: 20 })));
  assertEquals(engine.stats().speculation, { drafted: 0, accepted: 0 });
  await engine.close();
});
