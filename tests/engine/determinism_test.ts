/** One prompt, one answer: company, the cache, a restart and guessing change no token and no score. */

import { assert, assertEquals } from "@std/assert";
import { openLocalEngine } from "../../src/engine/open_local_engine.ts";
import type { Engine, EngineEvent, EngineOptions } from "../../src/engine/types.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";
import { goldens } from "../model/_goldens.ts";
import { TINY_V3 } from "../support/fixtures.ts";
import { MemoryStore } from "./_memory_store.ts";
import { collect, toyRequest } from "./toy.ts";

const PROMPTS = 100;

const MODELS = [
  { name: "a dense model", path: goldens().find(({ mixture }) => !mixture)!.path },
  {
    name: "a small trained mixture",
    path: TINY_V3,
  },
];

const OPTIONS = {
  backend: "wasm",
  activations: "q8",
  chunkTokens: 48,
  contextLength: 128,
} as const;

/** Prompts of all lengths; many begin as others do, some by less and some by more than a page. */
function prompts(vocabSize: number): number[][] {
  let state = 7;
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 2 ** 32 * below);
  };
  const all: number[][] = [];
  for (let i = 0; i < PROMPTS; i++) {
    const shared = i > 0 && random(2) === 0 ? all[random(i)] : [];
    const prompt = shared.slice(0, random(shared.length + 1));
    const length = Math.max(prompt.length + 1, 4 + random(100));
    while (prompt.length < length) prompt.push(random(vocabSize));
    all.push(prompt);
  }
  return all;
}

/** Tokens and scores; every third answer is sampled. */
async function answer(engine: Engine, { prompt, index }: { prompt: number[]; index: number }) {
  const events = await collect(engine.generate(toyRequest(prompt, {
    maxTokens: 8,
    topLogprobs: 3,
    sampling: index % 3 === 0
      ? { ...NEUTRAL_SAMPLING, temperature: 0.9, topP: 0.95, seed: index }
      : NEUTRAL_SAMPLING,
  })));
  assert(events.at(-1)?.type === "done");
  return events.filter(({ type }) => type === "token");
}

/** All answers, so many at a time. */
async function answers(engine: Engine, together: number): Promise<EngineEvent[][]> {
  const all = prompts(engine.info.vocabSize);
  const results: EngineEvent[][] = [];
  for (let start = 0; start < all.length; start += together) {
    const group = all.slice(start, start + together);
    results.push(
      ...await Promise.all(
        group.map((prompt, i) => answer(engine, { prompt, index: start + i })),
      ),
    );
  }
  return results;
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

for (const { name, path } of MODELS) {
  /** What every other way must give, computed once. */
  let aloneOnce: Promise<EngineEvent[][]> | undefined;
  const answersAlone = () =>
    aloneOnce ??= withEngine(
      { ...OPTIONS, model: path, threads: 1, slots: 1, reusePrefixes: false },
      { body: (engine) => answers(engine, 1) },
    );

  Deno.test(`${PROMPTS} prompts of ${name} are answered alike alone, in batches of 2, 7 and 16, warm, and after a restart`, async () => {
    const options = { ...OPTIONS, model: path, threads: 1, slots: 1 };
    const alone = await answersAlone();
    const store = new MemoryStore();
    for (const together of [2, 7, 16]) {
      await withEngine({ ...options, threads: together === 7 ? 2 : 1, slots: together }, {
        store: together === 16 ? store : undefined,
        body: async (engine) => {
          assertEquals(await answers(engine, together), alone, `batches of ${together}`);
          assertEquals(await answers(engine, together), alone, `batches of ${together}, warm`);
          assert(engine.stats().prefixCache.memory > 0);
        },
      });
    }
    await withEngine({ ...options, slots: 4 }, {
      store,
      body: async (engine) => {
        assertEquals(await answers(engine, 4), alone, "after a restart");
        assert(engine.stats().prefixCache.store > 0);
      },
    });
  });

  Deno.test(`${name} with fewer pages than its sequences need, and guessing, answers alike`, async () => {
    const options = { ...OPTIONS, model: path, threads: 1, slots: 6 };
    const alone = await answersAlone();
    const kvBytes = await withEngine({ ...options, kvBytes: undefined }, {
      body: (engine) => {
        const { total } = engine.stats().pages;
        // Four pages, of which a sequence may want two.
        return Promise.resolve(Math.ceil(engine.info.memory.kv / total) * 4);
      },
    });
    await withEngine({ ...options, kvBytes, speculation: "ngram" }, {
      body: async (engine) => {
        assertEquals(engine.stats().pages.total, 4);
        assertEquals(await answers(engine, 12), alone);
        assertEquals(engine.stats().pages.used, 0);
      },
    });
  });
}
