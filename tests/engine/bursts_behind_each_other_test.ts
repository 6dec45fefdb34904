/** Two bursts are under way at once: what is submitted when, and what of it shows and lasts. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { chainKey } from "../../src/cache/chain.ts";
import type { EngineEvent } from "../../src/engine/types.ts";
import { BackendLostError } from "../../src/errors.ts";
import { MemoryStore } from "./_memory_store.ts";
import { collect, toyAnswer, type ToyBackend, toyEngine, toyPrompt, toyRequest } from "./toy.ts";

const PROMPT = [3, 1, 4, 1, 5, 9, 2, 6];

function tokensOf(events: readonly EngineEvent[]): number[] {
  return events.flatMap((event) => event.type === "token" ? [event.token] : []);
}

/**
 * Holds reads of what bursts have chosen back until they are let go, each as of the time of its call, and
 * notes the tokens that had been shown when a step was submitted.
 */
function heldReads(backend: ToyBackend) {
  const held: (() => void)[] = [];
  const read = backend.readIntegers.bind(backend);
  backend.readIntegers = async (buffer, options) => {
    const values = await read(buffer, options);
    await new Promise<void>((resolve) => held.push(resolve));
    return values;
  };
  const until = async (count: number) => {
    for (let i = 0; held.length < count; i++) {
      assert(i < 1000, `${held.length} bursts are under way, must be ${count}`);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  };
  /** Lets go of all reads, now and later. */
  const letGo = () => {
    backend.readIntegers = read;
    for (const release of held.splice(0)) release();
  };
  return { held, until, letGo };
}

/** Time for whatever could be submitted. */
const settle = () => new Promise((resolve) => setTimeout(resolve, 20));

Deno.test("the next burst is submitted before the last one is read, and no third one", async () => {
  const { engine, backend } = toyEngine({ chooses: true });
  const { held, until, letGo } = heldReads(backend);
  const tokens: number[] = [];
  const answer = (async () => {
    for await (const event of engine.generate(toyRequest(PROMPT, { maxTokens: 90 }))) {
      if (event.type === "token") tokens.push(event.token);
    }
  })();
  await until(2);
  await settle();
  assertEquals([held.length, tokens.length], [2, 1]);
  const submitted = backend.steps.length;
  held.shift()!();
  await until(2);
  await settle();
  // The first burst is shown, the second has been computed, the third is under way behind it.
  assertEquals([held.length, tokens.length], [2, 1 + 8]);
  assert(backend.steps.length > submitted);
  letGo();
  await answer;
  assertEquals(tokens, toyAnswer(PROMPT, 90));
  await engine.close({ graceMs: 0 });
});

Deno.test("a stop in the first of two bursts ends the answer there, and who comes then is answered rightly", async () => {
  const { engine, backend } = toyEngine({ chooses: true, slots: 1, contextLength: 128, pages: 2 });
  const { held, until, letGo } = heldReads(backend);
  const [, , , , stop] = toyAnswer(PROMPT, 5);
  const request = toyRequest(PROMPT, { maxTokens: 90, stopTokens: [stop] });
  const events = collect(engine.generate(request));
  await until(2);
  const submitted = backend.steps.length;
  held.shift()!();
  assertEquals(tokensOf(await events), toyAnswer(PROMPT, 5).slice(0, 4));
  assertEquals([engine.stats().running, engine.stats().pages.used], [0, 0]);
  const next = collect(engine.generate(toyRequest([9, 8, 7], { maxTokens: 100 })));
  await settle();
  // It waits for the burst that is under way.
  assertEquals(backend.steps.length, submitted);
  letGo();
  assertEquals(tokensOf(await next), toyAnswer([9, 8, 7], 100));
  await engine.close({ graceMs: 0 });
});

Deno.test("an abort with two bursts under way frees pages that the next request may have", async () => {
  const { engine, backend } = toyEngine({ chooses: true, slots: 2, contextLength: 128, pages: 3 });
  const { until, letGo } = heldReads(backend);
  const long = Array.from({ length: 60 }, (_, i) => i % 50);
  const abort = new AbortController();
  const events = collect(
    engine.generate(toyRequest(long, { maxTokens: 60 }), { signal: abort.signal }),
  );
  await until(2);
  abort.abort();
  assertEquals(tokensOf(await events), toyAnswer(long, 1));
  assertEquals(engine.stats().pages.used, 0);
  const others = [[5, 5, 5, ...long], [6, 6, 6]];
  const answers = others.map((prompt) =>
    collect(engine.generate(toyRequest(prompt, { maxTokens: 50 })))
  );
  letGo();
  for (const [i, prompt] of others.entries()) {
    assertEquals(tokensOf(await answers[i]), toyAnswer(prompt, 50));
  }
  await engine.close({ graceMs: 0 });
});

Deno.test("who waits for a slot starts when one is free, and answers go on in bursts until then", async () => {
  const { engine, backend } = toyEngine({ chooses: true, slots: 2 });
  const { held, until, letGo } = heldReads(backend);
  const [, , , , , , , , , , , , , stop] = toyAnswer(PROMPT, 14);
  const long = collect(engine.generate(toyRequest([2, 1], { maxTokens: 200 })));
  const first = collect(
    engine.generate(toyRequest(PROMPT, { maxTokens: 90, stopTokens: [stop] })),
  );
  // The shortest prompt does not go last.
  const longer = [...PROMPT, ...PROMPT];
  const second = collect(engine.generate(toyRequest(longer, { maxTokens: 30 })));
  await until(2);
  assertEquals([engine.stats().running, engine.stats().waiting], [2, 1]);
  held.shift()!();
  // Nobody has ended in the first burst, so there is a third one.
  await until(2);
  held.shift()!();
  assertEquals(tokensOf(await first).length, toyAnswer(PROMPT, 14).indexOf(stop));
  await settle();
  // No fourth one: a slot is free.
  assertEquals(held.length, 1);
  letGo();
  assertEquals(tokensOf(await second), toyAnswer(longer, 30));
  assertEquals(tokensOf(await long), toyAnswer([2, 1], 200));
  await engine.close({ graceMs: 0 });
});

Deno.test("a request that comes while bursts are under way waits for no third one", async () => {
  const { engine, backend } = toyEngine({ chooses: true, slots: 2 });
  const { held, until, letGo } = heldReads(backend);
  const first = collect(engine.generate(toyRequest(PROMPT, { maxTokens: 90 })));
  await until(2);
  const second = collect(engine.generate(toyRequest([4, 4], { maxTokens: 30 })));
  held.shift()!();
  await settle();
  assertEquals(held.length, 1);
  held.shift()!();
  await until(2);
  assertEquals(engine.stats().running, 2);
  letGo();
  assertEquals(tokensOf(await first), toyAnswer(PROMPT, 90));
  assertEquals(tokensOf(await second), toyAnswer([4, 4], 30));
  await engine.close({ graceMs: 0 });
});

Deno.test("a burst that fails ends its answers once, with the one behind it, and the engine lives on", async () => {
  for (const lost of [false, true]) {
    const onLost: Error[] = [];
    const { engine, backend } = toyEngine({ chooses: true, onLost: (error) => onLost.push(error) });
    const read = backend.readIntegers.bind(backend);
    const error = lost ? new BackendLostError("cannot compute: gone") : new Error("no luck");
    backend.readIntegers = () => Promise.reject(error);
    const answers = [[1, 2], [3, 4, 5]].map((prompt) =>
      collect(engine.generate(toyRequest(prompt, { maxTokens: 60 })))
    );
    for (const answer of answers) await assertRejects(() => answer, Error, error.message);
    assertEquals(onLost, lost ? [error] : []);
    backend.readIntegers = read;
    const events = await collect(engine.generate(toyRequest(PROMPT, { maxTokens: 40 })));
    assertEquals(tokensOf(events), toyAnswer(PROMPT, 40));
    assertEquals(engine.stats().pages.used, 0);
    await engine.close({ graceMs: 0 });
  }
});

Deno.test("closing waits for bursts that are under way, and for nothing behind them", async () => {
  const { engine, backend } = toyEngine({ chooses: true });
  const { until, letGo } = heldReads(backend);
  const events = collect(engine.generate(toyRequest(PROMPT, { maxTokens: 200 })));
  await until(2);
  const submitted = backend.steps.length;
  const closed = engine.close({ graceMs: 0 });
  const done = (await events).at(-1);
  assert(done?.type === "done" && done.reason === "abort");
  assert(!backend.closed);
  letGo();
  await closed;
  assert(backend.closed);
  assertEquals(backend.steps.length, submitted);
});

Deno.test("a page that a burst has made whole is copied before another burst can write anywhere", async () => {
  const { engine, backend } = toyEngine({ chooses: true, store: new MemoryStore() });
  const { held, until, letGo } = heldReads(backend);
  const read = backend.readPage.bind(backend);
  /** Steps that had been submitted when a page was read. */
  const copied: number[] = [];
  backend.readPage = (part) => {
    copied.push(backend.steps.length);
    return read(part);
  };
  const events = collect(engine.generate(toyRequest(toyPrompt(60), { maxTokens: 100 })));
  await until(2);
  held.shift()!();
  await until(2);
  const submitted = backend.steps.length;
  copied.length = 0;
  // The second burst begins with what the first one has chosen, behind the page's end.
  held.shift()!();
  await until(2);
  assertEquals(copied, [submitted]);
  assert(backend.steps.length > submitted);
  letGo();
  assertEquals(tokensOf(await events), toyAnswer(toyPrompt(60), 100));
  await engine.close({ graceMs: 0 });
});

Deno.test("what bursts leave to the store is what their pages held, whoever writes there next", async () => {
  const store = new MemoryStore();
  const options = { chooses: true, slots: 3, contextLength: 256, pages: 9, store } as const;
  const { engine } = toyEngine(options);
  const rounds = Array.from({ length: 24 }, (_, i) => {
    const prompt = [...PROMPT, ...toyPrompt(20 + 13 * (i % 5), i % 3)];
    const stop = toyAnswer(prompt, 90)[10 + 7 * (i % 9)];
    return toyRequest(prompt, { maxTokens: 90, stopTokens: i % 2 === 0 ? [stop] : [] });
  });
  await Promise.all(rounds.map((request) => collect(engine.generate(request))));
  await engine.close({ graceMs: 0 });
  assert(store.units.size > 30);
  for (const { key, parent, bytes } of store.units.values()) {
    const numbers = new Int32Array(bytes.buffer);
    const tokens = [...numbers].filter((_, i) => i % 2 === 0);
    assertEquals(chainKey(parent, tokens), key);
  }
});
