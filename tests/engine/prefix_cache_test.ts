/** Prompts that were computed before are not computed again, and nobody can tell by the answers. */

import { assert, assertEquals } from "@std/assert";
import type { KvType } from "../../src/backend/backend.ts";
import { openLocalEngine } from "../../src/engine/open_local_engine.ts";
import type {
  CachedTokens,
  Engine,
  EngineEvent,
  EngineOptions,
  GenerateRequest,
} from "../../src/engine/types.ts";
import { goldens } from "../model/_goldens.ts";
import { MemoryStore } from "./_memory_store.ts";
import { collect, toyRequest } from "./toy.ts";

const OPTIONS = {
  backend: "wasm",
  activations: "q8",
  threads: 1,
  slots: 4,
  chunkTokens: 64,
} as const;

const PROMPT = 100;
const ANSWER = 6;
const FURTHER = 9;

/** Token ids that look like nothing in particular. */
function randomTokens(count: number, { vocabSize, seed }: { vocabSize: number; seed: number }) {
  const tokens: number[] = [];
  let state = seed;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    tokens.push(Math.floor(state / 2 ** 32 * vocabSize));
  }
  return tokens;
}

/** Everything that depends on logits, bit for bit, and what was cached. */
async function ask(
  engine: Engine,
  tokens: readonly number[],
  options: Partial<GenerateRequest> = {},
): Promise<{ answer: EngineEvent[]; tokens: number[]; cached: CachedTokens }> {
  const topLogprobs = Math.min(1000, engine.info.vocabSize);
  const events = await collect(
    engine.generate(toyRequest(tokens, { maxTokens: ANSWER, topLogprobs, ...options })),
  );
  const done = events.at(-1);
  assert(done?.type === "done", "the answer has an end");
  const answer = events.filter(({ type }) => type === "token");
  return {
    answer,
    tokens: answer.flatMap((event) => event.type === "token" ? [event.token] : []),
    cached: done.cached,
  };
}

async function withEngine<T>(
  options: EngineOptions,
  { store, body }: { store?: MemoryStore; body: (engine: Engine) => Promise<T> },
): Promise<T> {
  const engine = await openLocalEngine(options, { store });
  try {
    return await body(engine);
  } finally {
    await engine.close({ graceMs: 0 });
  }
}

/** A first turn, a second one that quotes the first and its answer, and one that quotes the prompt only. */
async function conversation(engine: Engine) {
  const { vocabSize } = engine.info;
  const prompt = randomTokens(PROMPT, { vocabSize, seed: 1 });
  const first = await ask(engine, prompt);
  const more = randomTokens(FURTHER, { vocabSize, seed: 2 });
  const second = await ask(engine, [...prompt, ...first.tokens, ...more]);
  const other = await ask(engine, [...prompt, ...more]);
  return [first, second, other];
}

const hitsOf = (turns: readonly { cached: CachedTokens }[]) => turns.map(({ cached }) => cached);
const answersOf = (turns: readonly { answer: EngineEvent[] }[]) =>
  turns.map(({ answer }) => answer);

for (const { id, path } of goldens()) {
  Deno.test(`${id} answers with the same bits without a cache, cold, warm, and restored from a store`, async () => {
    const options = { ...OPTIONS, model: path, contextLength: 128 };
    const without = await withEngine({ ...options, reusePrefixes: false }, { body: conversation });
    assertEquals(hitsOf(without), Array(3).fill({ memory: 0, store: 0 }));
    const store = new MemoryStore();
    await withEngine(options, {
      store,
      body: async (engine) => {
        const cold = await conversation(engine);
        assertEquals(answersOf(cold), answersOf(without));
        // All of the first turn but the answer's last token, which was never fed in.
        assertEquals(hitsOf(cold), [
          { memory: 0, store: 0 },
          { memory: PROMPT + ANSWER - 1, store: 0 },
          { memory: PROMPT, store: 0 },
        ]);
        const warm = await conversation(engine);
        assertEquals(answersOf(warm), answersOf(without));
        assertEquals(hitsOf(warm), [
          { memory: PROMPT - 1, store: 0 },
          { memory: PROMPT + ANSWER + FURTHER - 1, store: 0 },
          { memory: PROMPT + FURTHER - 1, store: 0 },
        ]);
      },
    });
    const restored = await withEngine(options, { store, body: conversation });
    assertEquals(answersOf(restored), answersOf(without));
    assertEquals(restored[0].cached, { memory: 0, store: PROMPT - 1 });
    assert(store.loads > 0);
  });
}

const CASES = ["gguf/llama3_r1_distill.q8_0", "models/qwen2_tied"];
const [dense] = goldens().filter(({ id }) => CASES.includes(id));

for (const kvType of ["f32", "f16", "q8"] as const satisfies readonly KvType[]) {
  Deno.test(`keys and values kept as ${kvType} are restored with the same bits`, async () => {
    const options = { ...OPTIONS, model: dense.path, contextLength: 128, kvType };
    const store = new MemoryStore();
    const cold = await withEngine(options, { store, body: conversation });
    const restored = await withEngine(options, { store, body: conversation });
    assertEquals(answersOf(restored), answersOf(cold));
    assert(restored.every(({ cached }) => cached.store + cached.memory > 0));
  });
}

Deno.test("what one type of cache keeps is nothing to another one, nor to other activations or models", async () => {
  const store = new MemoryStore();
  const options = { ...OPTIONS, model: dense.path, contextLength: 128 };
  await withEngine({ ...options, kvType: "f32" }, { store, body: conversation });
  const others: EngineOptions[] = [
    { ...options, kvType: "f16" },
    { ...options, kvType: "f32", activations: "q16" },
    {
      ...options,
      kvType: "f32",
      model: goldens().find(({ path }) => path !== dense.path)!.path,
    },
  ];
  for (const other of others) {
    const [first] = await withEngine(other, { store, body: conversation });
    assertEquals(first.cached, { memory: 0, store: 0 });
  }
});

Deno.test("tenants never share, neither in memory nor through the store", async () => {
  const store = new MemoryStore();
  const options = { ...OPTIONS, model: dense.path, contextLength: 128 };
  const askAll = (engine: Engine) =>
    Promise.resolve().then(async () => {
      const prompt = randomTokens(PROMPT, { vocabSize: engine.info.vocabSize, seed: 3 });
      const hits: CachedTokens[] = [];
      for (const tenant of ["a", "b", null, "a", null]) {
        hits.push((await ask(engine, prompt, { tenant })).cached);
      }
      return hits;
    });
  const none = { memory: 0, store: 0 };
  assertEquals(await withEngine(options, { store, body: askAll }), [
    none,
    none,
    none,
    { memory: PROMPT - 1, store: 0 },
    none,
  ]);
  const onlyA = new MemoryStore();
  await withEngine(options, {
    store: onlyA,
    body: (engine) =>
      ask(engine, randomTokens(PROMPT, { vocabSize: engine.info.vocabSize, seed: 3 }), {
        tenant: "a",
      }),
  });
  const restored = await withEngine(options, { store: onlyA, body: askAll });
  assertEquals(restored.slice(0, 3), [{ memory: 0, store: PROMPT - 1 }, none, none]);
});

Deno.test("equal prompts at the same time are computed once, and answer as if alone", async () => {
  const options = { ...OPTIONS, model: dense.path, contextLength: 128, reusePrefixes: false };
  await withEngine(options, {
    body: async (engine) => {
      const prompt = randomTokens(PROMPT, { vocabSize: engine.info.vocabSize, seed: 4 });
      const alone = await ask(engine, prompt);
      const together = await Promise.all([1, 2, 3].map(() => ask(engine, prompt)));
      assertEquals(answersOf(together), Array(3).fill(alone.answer));
      const memory = together.map(({ cached }) => cached.memory).sort((a, b) => a - b);
      assertEquals(memory, [0, PROMPT - 1, PROMPT - 1]);
      // Later ones find nothing: the cache is off.
      assertEquals((await ask(engine, prompt)).cached, { memory: 0, store: 0 });
    },
  });
});

Deno.test("units of another length than the cache's are not taken", async () => {
  const options = { ...OPTIONS, model: dense.path, contextLength: 128 };
  const store = new MemoryStore();
  const cold = await withEngine(options, { store, body: conversation });
  for (const unit of store.units.values()) {
    store.units.set(unit.key, { ...unit, bytes: unit.bytes.slice(1) });
  }
  const again = await withEngine(options, { store, body: conversation });
  assertEquals(answersOf(again), answersOf(cold));
  assertEquals(again[0].cached, { memory: 0, store: 0 });
});

Deno.test("a request that leaves while it is restored frees its slot, and the next one is right", async () => {
  const options = { ...OPTIONS, slots: 1, model: dense.path, contextLength: 128 };
  const store = new MemoryStore();
  const cold = await withEngine(options, { store, body: conversation });
  const gate = Promise.withResolvers<void>();
  store.delay = () => gate.promise;
  await withEngine(options, {
    store,
    body: async (engine) => {
      const prompt = randomTokens(PROMPT, { vocabSize: engine.info.vocabSize, seed: 1 });
      const leaving = new AbortController();
      const left = collect(engine.generate(toyRequest(prompt), { signal: leaving.signal }));
      await new Promise((resolve) => setTimeout(resolve, 20));
      leaving.abort();
      const done = (await left).at(-1);
      assert(done?.type === "done" && done.reason === "abort");
      const next = ask(engine, prompt);
      gate.resolve();
      assertEquals((await next).answer, cold[0].answer);
    },
  });
});
