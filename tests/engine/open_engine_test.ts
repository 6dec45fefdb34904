import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { FormatError, OptionError } from "../../src/errors.ts";
import { openEngine } from "../../src/engine/open_engine.ts";
import { openLocalEngine } from "../../src/engine/open_local_engine.ts";
import type { Engine, EngineEvent, EngineOptions, LoadProgress } from "../../src/engine/types.ts";
import { NEUTRAL_SAMPLING } from "../../src/sampling/types.ts";
import { type Golden, goldens } from "../model/_goldens.ts";
import { ROOT, TINY_V3 } from "../support/fixtures.ts";
import { answerOf, collect, toyRequest } from "./toy.ts";

const OPTIONS = {
  backend: "wasm",
  activations: "f32",
  threads: 1,
  slots: 3,
  chunkTokens: 64,
} as const;

const CASES = goldens();

/** A case of the small ones that are always there. */
function golden(id: string): Golden {
  const found = CASES.find((candidate) => candidate.id === id);
  assert(found !== undefined, `there is no golden ${id}`);
  return found;
}

async function withEngine(
  options: EngineOptions,
  body: (engine: Engine) => Promise<void>,
): Promise<void> {
  const engine = await openLocalEngine(options);
  try {
    await body(engine);
  } finally {
    await engine.close({ graceMs: 0 });
  }
}

const SMALL = ["gguf/llama3_r1_distill.q8_0", "gguf/qwen3.q8_0", "models/qwen2_tied"];

for (const backend of ["reference", "wasm"] as const) {
  for (const id of SMALL) {
    Deno.test(`the engine's greedy answers on ${backend} are the recorded ones of ${id}`, async () => {
      const { path, sequences, greedy } = golden(id);
      await withEngine({ ...OPTIONS, backend, model: path }, async (engine) => {
        const answers = await Promise.all(
          sequences.map((tokens) =>
            answerOf(engine.generate(toyRequest(tokens, { maxTokens: 16 })))
          ),
        );
        assertEquals(answers, greedy.map((tokens) => [...tokens]));
      });
    });
  }
}

/** Every number that depends on logits: of the prompt's tokens and of a sampled answer's. */
async function scoresOf(engine: Engine, tokens: readonly number[]): Promise<EngineEvent[]> {
  const events = await collect(engine.generate(toyRequest(tokens, {
    maxTokens: 24,
    topLogprobs: 5,
    promptLogprobs: true,
    sampling: { ...NEUTRAL_SAMPLING, temperature: 1, topP: 0.9, seed: 4 },
  })));
  return events.filter((event) => event.type !== "done");
}

Deno.test("scores and seeded answers keep every bit across threads, chunks and company", async () => {
  const { path, sequences } = golden("gguf/llama3_r1_distill.q8_0");
  const tokens = sequences[2];
  const options = { ...OPTIONS, activations: "q8", model: path } as const;
  let alone: EngineEvent[] = [];
  await withEngine(options, async (engine) => {
    alone = await scoresOf(engine, tokens);
  });
  assert(alone.length > 10);
  for (const [threads, chunkTokens] of [[1, 1], [2, 7], [1, 64], [2, 300]]) {
    await withEngine({ ...options, threads, chunkTokens }, async (engine) => {
      const company = sequences.map((others) =>
        answerOf(engine.generate(toyRequest(others, { maxTokens: 40 })))
      );
      assertEquals(await scoresOf(engine, tokens), alone);
      await Promise.all(company);
    });
  }
});

Deno.test("openEngine runs the model in a worker, and says what it runs", async () => {
  const { path, sequences, greedy } = golden("gguf/qwen3.q8_0");
  const progress: Parameters<LoadProgress>[0][] = [];
  const engine = await openEngine(
    { ...OPTIONS, model: path, threads: 2, contextLength: 200 },
    { onProgress: (report) => progress.push(report) },
  );
  try {
    const {
      architecture,
      quantisation,
      contextLength,
      slots,
      backend,
      threads,
      vocabSize,
      memory,
    } = engine.info;
    assertEquals([architecture, quantisation, backend], ["qwen3", "Q8_0", "wasm"]);
    assertEquals([contextLength, slots, threads, vocabSize], [200, 3, 2, 512]);
    assert(memory.weights > 0 && memory.kv > 0 && memory.workspace > 0);
    const last = progress[progress.length - 1];
    assert(last.totalBytes > 0 && last.loadedBytes === last.totalBytes);
    const answer = await answerOf(engine.generate(toyRequest(sequences[1], { maxTokens: 16 })));
    assertEquals(answer, [...greedy[1]]);
  } finally {
    await engine.close();
  }
});

const MODEL = golden("gguf/qwen3.q8_0").path;
const WRONG: [string, Partial<EngineOptions>, new (message: string) => Error, string][] = [
  ["a missing file", { model: `${MODEL}.missing` }, FormatError, "qwen3.q8_0.gguf.missing"],
  ["what is no model", { model: new URL("deno.json", ROOT).pathname }, FormatError, "deno.json"],
  ["a context beyond the model's", { contextLength: 100_000 }, OptionError, "100000, must be"],
  ["no slots", { slots: 0 }, OptionError, "slots is 0, must be"],
];

for (const [what, wrong, errorClass, message] of WRONG) {
  Deno.test(`openEngine refuses ${what} with a named error from the worker`, async () => {
    await assertRejects(
      () => openEngine({ ...OPTIONS, model: MODEL, ...wrong }),
      errorClass,
      message,
    );
  });
}

Deno.test("a dense model beyond its budget is loaded whole and says so", async () => {
  const { path } = golden("gguf/qwen3.q8_0");
  const warningsOf = async (budgets: Partial<EngineOptions>) => {
    let warnings: readonly string[] = [];
    await withEngine({ ...OPTIONS, model: path, ...budgets }, (engine) => {
      warnings = engine.info.warnings;
      return Promise.resolve();
    });
    return warnings;
  };
  assertEquals(await warningsOf({ memoryBytes: 2 ** 30 }), []);
  const [memory, cache, ...rest] = await warningsOf({
    memoryBytes: 64 * 2 ** 20,
    expertCacheBytes: 2 ** 20,
  });
  assertMatch(
    memory,
    /^the model has no routed experts to page; with its process it takes 1\d\d MiB, the budget is 64 MiB$/,
  );
  assertEquals(cache, "the model has no routed experts; nothing is kept in the 1 MiB for them");
  assertEquals(rest, []);
});

Deno.test("a mixture that is paged within its budget has nothing to say about it", async () => {
  const model = TINY_V3;
  await withEngine({ ...OPTIONS, model, expertCacheBytes: 2 ** 20 }, (engine) => {
    assertEquals(engine.info.warnings, []);
    return Promise.resolve();
  });
});

Deno.test("the reference backend refuses budgets of memory that it could not keep to", async () => {
  const { path } = golden("gguf/qwen3.q8_0");
  const budgets: [Partial<EngineOptions>, string][] = [
    [{ memoryBytes: 2 ** 30 }, "memoryBytes (--memory) is 1073741824, must be left out"],
    [{ expertCacheBytes: 5 }, "expertCacheBytes (--expert-cache) is 5, must be left out"],
  ];
  for (const [budget, message] of budgets) {
    await assertRejects(
      () => openLocalEngine({ ...OPTIONS, backend: "reference", model: path, ...budget }),
      OptionError,
      `cannot open the reference backend: ${message}`,
    );
  }
});
