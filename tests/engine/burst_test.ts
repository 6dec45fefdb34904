/** Where a backend chooses tokens by itself, answers are the same and steps wait for nobody. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { chainKey } from "../../src/cache/chain.ts";
import { BURST_TOKENS, turnsOf } from "../../src/engine/burst.ts";
import { BackendLostError, FormatError, RequestError } from "../../src/errors.ts";
import type { EngineEvent, GenerateRequest } from "../../src/engine/types.ts";
import { NEUTRAL_SAMPLING, type SamplingParams } from "../../src/sampling/types.ts";
import { MemoryStore } from "./_memory_store.ts";
import {
  collect,
  toyAnswer,
  type ToyBackend,
  toyEngine,
  toyPrompt,
  toyRequest,
  VOCAB,
} from "./toy.ts";

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

Deno.test("a greedy answer is that of single steps, and the host waits for few of its tokens", async () => {
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
  assert(waits < count / 4, `${waits} waits`);
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

const SAMPLING: readonly Partial<SamplingParams>[] = [
  { temperature: 1.1, topP: 0.9 },
  { temperature: 0.7, topK: 12, minP: 0.03 },
  { temperature: 2, repetitionPenalty: 1.4, frequencyPenalty: 0.2 },
  { presencePenalty: 1.5, logitBias: [[7, 2.5], [8, -Infinity]] },
  { temperature: 1, logitBias: [[20, 4]] },
  {},
];

/** Requests that differ in their prompts, and in how their tokens are chosen. */
function sampledRequests(maxTokens: number) {
  return SAMPLING.map((sampling, i) =>
    toyRequest([...PROMPT, i, i + 1], {
      maxTokens: maxTokens + 5 * i,
      sampling: { ...NEUTRAL_SAMPLING, ...sampling, seed: 70 + i },
    })
  );
}

async function answersAlone(requests: readonly GenerateRequest[]): Promise<number[][]> {
  const { engine } = toyEngine({ contextLength: 512 });
  const answers: number[][] = [];
  for (const request of requests) answers.push(tokensOf(await collect(engine.generate(request))));
  await engine.close({ graceMs: 0 });
  return answers;
}

Deno.test("a seed gives the same text in bursts as in single steps, whatever filters and penalties", async () => {
  const requests = sampledRequests(70);
  const alone = await answersAlone(requests);
  for (const slots of [1, 6]) {
    const { engine, backend } = toyEngine({ chooses: true, slots });
    const answers = await Promise.all(
      requests.map(async (request) => tokensOf(await collect(engine.generate(request)))),
    );
    assertEquals(answers, alone);
    // One read of logits for each step without a burst: those with prompts.
    assert(backend.logitReads < 70, `${backend.logitReads} steps waited for the host`);
    await engine.close({ graceMs: 0 });
  }
});

Deno.test("a seed gives the same text where bursts and single steps take turns", async () => {
  const requests = sampledRequests(200);
  const alone = await answersAlone(requests);
  const { engine, backend } = toyEngine({ chooses: true, slots: 7, contextLength: 512 });
  let shown = 0;
  const answers = requests.map(async (request) => {
    const tokens: number[] = [];
    for await (const event of engine.generate(request)) {
      if (event.type !== "token") continue;
      tokens.push(event.token);
      // Log-probabilities are read step by step, of all that runs beside them.
      if (++shown % 300 > 0) continue;
      const prompt = [shown % 50, 3];
      const scored = toyRequest(prompt, { maxTokens: 7, topLogprobs: 1 });
      assertEquals(tokensOf(await collect(engine.generate(scored))), toyAnswer(prompt, 7));
    }
    return tokens;
  });
  assertEquals(await Promise.all(answers), alone);
  const most = alone.length + 7 * Math.floor(shown / 300);
  assert(backend.logitReads > 14 && backend.logitReads <= most, `${backend.logitReads} reads`);
  await engine.close({ graceMs: 0 });
});

Deno.test("what is discarded behind a stop token has drawn nothing, and a bias of nothing but -Infinity is named", async () => {
  const { engine } = toyEngine({ chooses: true });
  const sampling = { ...NEUTRAL_SAMPLING, temperature: 1, seed: 4 };
  const [answer] = await answersAlone([toyRequest(PROMPT, { maxTokens: 40, sampling })]);
  const stop = answer[20];
  const shown = answer.slice(0, answer.indexOf(stop));
  const request = toyRequest(PROMPT, { maxTokens: 40, sampling, stopTokens: [stop] });
  assertEquals(tokensOf(await collect(engine.generate(request))), shown);
  const logitBias = Array.from({ length: VOCAB }, (_, token) => [token, -Infinity] as const);
  const none = toyRequest(PROMPT, { maxTokens: 4, sampling: { ...sampling, logitBias } });
  await assertRejects(() => collect(engine.generate(none)), RequestError, "one must be finite");
  await engine.close({ graceMs: 0 });
});

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

Deno.test("answers that give way for want of pages and are computed again are as alone", async () => {
  const requests = sampledRequests(400).slice(0, 3);
  const alone = await answersAlone(requests);
  const { engine } = toyEngine({ chooses: true, slots: 3, contextLength: 512, pages: 16 });
  const answers = await Promise.all(
    requests.map(async (request) => tokensOf(await collect(engine.generate(request)))),
  );
  assertEquals(answers, alone);
  assert(engine.stats().preemptions > 0, "nobody had to give way");
  assertEquals(engine.stats().pages.used, 0);
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
