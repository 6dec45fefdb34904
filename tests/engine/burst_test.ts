/** Where a backend chooses tokens by itself, answers are the same and steps wait for nobody. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { BURST_TOKENS, turnsOf } from "../../src/engine/burst.ts";
import { FormatError } from "../../src/errors.ts";
import type { EngineEvent } from "../../src/engine/types.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";
import { collect, toyAnswer, toyEngine, toyRequest } from "./toy.ts";

const PROMPT = [3, 1, 4, 1, 5, 9, 2, 6];

function tokensOf(events: readonly EngineEvent[]): number[] {
  return events.flatMap((event) => event.type === "token" ? [event.token] : []);
}

Deno.test("a burst's turns compute each sequence's rows in order, the longest first", () => {
  const row = (sequence: number, position: number) => ({
    ...{ sequence, slot: sequence, position, token: 0, wantsLogits: true },
  });
  const rows = [row(7, 4), row(7, 5), row(8, 1), row(9, 2), row(9, 3), row(9, 4)];
  assertEquals(turnsOf(rows), [[3, 0, 2], [4, 1], [5]]);
});

Deno.test("a greedy answer is that of single steps, and the host waits once for many tokens", async () => {
  const { engine, backend } = toyEngine({ chooses: true });
  let waits = 0;
  const read = backend.readIntegers.bind(backend);
  backend.readIntegers = (buffer, options) => {
    waits++;
    return read(buffer, options);
  };
  const count = 3 * BURST_TOKENS + 9;
  const events = await collect(engine.generate(toyRequest(PROMPT, { maxTokens: count })));
  assertEquals(tokensOf(events), toyAnswer(PROMPT, count));
  // A token with the prompt, a first burst of 8, and longer ones.
  assertEquals(waits, 4);
  await engine.close({ graceMs: 0 });
});

Deno.test("nothing behind a stop token is shown, and what was computed behind it harms nobody", async () => {
  const { engine } = toyEngine({ chooses: true });
  for (const length of [2, BURST_TOKENS, BURST_TOKENS + 3]) {
    const answer = toyAnswer(PROMPT, length);
    const stop = answer[length - 1];
    const shown = answer.slice(0, answer.indexOf(stop));
    const request = toyRequest(PROMPT, { maxTokens: 60, stopTokens: [stop] });
    const events = await collect(engine.generate(request));
    assertEquals(tokensOf(events), shown);
    const done = events.at(-1);
    assert(done?.type === "done" && done.reason === "stop" && done.stopToken === stop);
  }
  await engine.close({ graceMs: 0 });
});

Deno.test("answers of different lengths side by side, some sampled, are as each alone", async () => {
  const requests = [
    toyRequest([1, 2, 3], { maxTokens: 7 }),
    toyRequest([4, 5], { maxTokens: 41 }),
    toyRequest([6, 7, 8, 9], { maxTokens: 23 }),
    toyRequest([2, 2, 2], {
      maxTokens: 12,
      sampling: { ...NEUTRAL_SAMPLING, temperature: 0.8, seed: 5 },
    }),
    toyRequest([8, 1], { maxTokens: 30 }),
  ];
  const plain = toyEngine();
  const alone: number[][] = [];
  for (const request of requests) {
    alone.push(tokensOf(await collect(plain.engine.generate(request))));
  }
  const { engine } = toyEngine({ chooses: true });
  const together = await Promise.all(
    requests.map(async (request) => tokensOf(await collect(engine.generate(request)))),
  );
  assertEquals(together, alone);
  assertEquals(engine.stats().pages.used, 0);
  await plain.engine.close({ graceMs: 0 });
  await engine.close({ graceMs: 0 });
});

Deno.test("an answer goes on over pages that the burst needs ahead, up to the context's end", async () => {
  const { engine } = toyEngine({ chooses: true, contextLength: 150, pages: 3, slots: 2 });
  const events = await collect(engine.generate(toyRequest(PROMPT, { maxTokens: 142 })));
  assertEquals(tokensOf(events), toyAnswer(PROMPT, 142));
  await engine.close({ graceMs: 0 });
});

Deno.test("logits that are no numbers end the request by name, and the next one is right", async () => {
  const { engine, backend } = toyEngine({ chooses: true });
  const read = backend.readIntegers.bind(backend);
  backend.readIntegers = async (buffer, options) => (await read(buffer, options)).fill(-1);
  const answer = collect(engine.generate(toyRequest(PROMPT, { maxTokens: 9 })));
  await assertRejects(
    () => answer,
    FormatError,
    "cannot choose a token: a logit is NaN or infinite",
  );
  backend.readIntegers = read;
  const events = await collect(engine.generate(toyRequest(PROMPT, { maxTokens: 20 })));
  assertEquals(tokensOf(events), toyAnswer(PROMPT, 20));
  await engine.close({ graceMs: 0 });
});
