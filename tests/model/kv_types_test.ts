/**
 * What keeping the cache in halves or in 8 bits does to logits, and pages of whole models. Logits are
 * held against those over a float32 cache on the same backend, with float activations, so that nothing
 * else differs.
 */

import { assert, assertEquals } from "@std/assert";
import type { Backend, KvType, ModelCache } from "../../src/backend/backend.ts";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { Evaluator } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { assertSameBits } from "../backend/_harness.ts";
import { type Golden, goldens } from "./_goldens.ts";

const TYPES = ["f16", "q8"] as const;

/** The difference that a type makes to the logits of a case's third sequence, whose own rms is 3. */
interface Effect {
  /** Over all logits. */
  readonly rms: number;
  readonly max: number;
  /** Of the rms of each token's logits, the middle one. */
  readonly middle: number;
}

/**
 * Measured on the reference backend. Where experts are chosen at a near tie, rounding may choose others
 * and so change a token's logits by any amount: of the mixture only the middle token is held to a limit
 * (its rms of q8 is 0.43, its largest difference 9.1, by a few such tokens).
 */
const MEASURED: Record<string, Record<(typeof TYPES)[number], Partial<Effect>>> = {
  "models/qwen2_tied": {
    f16: { rms: 1.78e-3, max: 1.22e-2, middle: 1.64e-3 },
    q8: { rms: 3.57e-2, max: 0.236, middle: 3.29e-2 },
  },
  "gguf/qwen3.q8_0": {
    f16: { rms: 1.24e-3, max: 6.39e-3, middle: 1.2e-3 },
    q8: { rms: 2.94e-2, max: 0.171, middle: 2.76e-2 },
  },
  "gguf/llama3_r1_distill.q8_0": {
    f16: { rms: 1.49e-3, max: 1.0e-2, middle: 1.34e-3 },
    q8: { rms: 2.88e-2, max: 0.181, middle: 2.61e-2 },
  },
  // Latents and a mixture.
  "models/deepseek_v3": { f16: { middle: 2.46e-3 }, q8: { middle: 8.49e-2 } },
};

/** Another machine's roundings are others. */
const MARGIN = 2;

const BACKENDS = [
  { name: "reference", open: () => Promise.resolve(createReferenceBackend()) },
  { name: "wasm f32", open: () => createWasmBackend({ threads: 2, activations: "f32" }) },
];

const CASES = goldens();

function golden(id: string): Golden {
  const found = CASES.find((candidate) => candidate.id === id);
  assert(found !== undefined, `there is no golden ${id}`);
  return found;
}

/** Opens a case's model on a backend, with a way to see the caches it makes. */
async function withModel(
  { path }: Golden,
  options: {
    open: () => Promise<Backend>;
    body: (opened: {
      backend: Backend;
      evaluatorOf: (kvType: KvType) => Evaluator;
      caches: readonly ModelCache[];
    }) => Promise<void>;
  },
): Promise<void> {
  const source = await openCheckpoint(path);
  const backend = await options.open();
  try {
    const loaded = await loadModel({ source, backend, maxRows: 128, maxLogitRows: 128 });
    const caches: ModelCache[] = [];
    const model = {
      ...loaded,
      createKvCache(pages: number, type: KvType) {
        caches.push(loaded.createKvCache(pages, type));
        return caches.at(-1)!;
      },
    };
    const limits = { maxRows: 128, sequences: 1, tokens: 128 };
    const evaluatorOf = (kvType: KvType) => new Evaluator({ model, backend, ...limits, kvType });
    await options.body({ backend, evaluatorOf, caches });
  } finally {
    backend.close();
    source.close();
  }
}

function effectOf(logits: Float32Array, exact: Float32Array, tokens: number): Effect {
  const squares = logits.map((value, i) => (value - exact[i]) ** 2);
  const mean = (values: Float32Array) => values.reduce((sum, v) => sum + v, 0) / values.length;
  const vocab = logits.length / tokens;
  const byToken = Array.from(
    { length: tokens },
    (_, t) => Math.sqrt(mean(squares.subarray(t * vocab, (t + 1) * vocab))),
  );
  byToken.sort((a, b) => a - b);
  return {
    rms: Math.sqrt(mean(squares)),
    middle: byToken[tokens >> 1],
    max: Math.sqrt(squares.reduce((most, square) => Math.max(most, square), 0)),
  };
}

for (const [id, measured] of Object.entries(MEASURED)) {
  for (const { name, open } of BACKENDS) {
    Deno.test(`${name}: ${id} over a cache of f16 or q8 gives logits within ${MARGIN} times the measured difference`, async () => {
      const ids = golden(id).sequences[2];
      await withModel(golden(id), {
        open,
        body: async ({ evaluatorOf }) => {
          const [exact] = await evaluatorOf("f32").allLogits([ids], { chunk: 128 });
          for (const type of TYPES) {
            const [logits] = await evaluatorOf(type).allLogits([ids], { chunk: 128 });
            const effect = effectOf(logits, exact, ids.length);
            for (const [what, limit] of Object.entries(measured[type])) {
              const is = effect[what as keyof Effect];
              assert(
                is >= limit / MARGIN && is <= MARGIN * limit,
                `${what} of ${type} is ${is}, must be within ${MARGIN} times ${limit}`,
              );
            }
          }
        },
      });
    });
  }

  Deno.test(`${id} over a cache of f16 or q8 has the same bits in chunks, whatever the threads`, async () => {
    const ids = golden(id).sequences[2];
    for (const type of TYPES) {
      let expected: Float32Array | undefined;
      for (const threads of [1, 2]) {
        await withModel(golden(id), {
          open: () => createWasmBackend({ threads, activations: "q8" }),
          body: async ({ evaluatorOf }) => {
            for (const chunk of [128, 1, 7, 64]) {
              const [logits] = await evaluatorOf(type).allLogits([ids], { chunk });
              expected ??= logits;
              assertSameBits(logits, expected, `${type}, chunks of ${chunk}, ${threads} threads`);
            }
          },
        });
      }
    }
  });

  Deno.test(`${id} in several memories has the pages of one in a single one, and goes on from them`, async () => {
    const [, , ids] = golden(id).sequences;
    const first = ids.slice(0, 64);
    for (const type of ["f32", ...TYPES] as const) {
      let whole: Uint8Array | undefined;
      let expected: Float32Array | undefined;
      for (const banks of [1, 12]) {
        const size = banks === 1 ? {} : { banks, bankBytes: 128 * 1024 };
        await withModel(golden(id), {
          open: () => createWasmBackend({ threads: 2, activations: "q8", ...size }),
          body: async ({ backend, evaluatorOf, caches }) => {
            const evaluator = evaluatorOf(type);
            const all = await evaluator.prefill(ids, { chunk: 128 });
            const part = { cache: caches[0], page: 0, tokens: 64 };
            const page = await backend.readPage(part);
            whole ??= page;
            expected ??= all;
            assertEquals(page, whole);
            assertSameBits(all, expected, `${banks} memories`);
            // Something else in the page, then what was read: the rest of the sequence goes on the same.
            evaluator.truncate(0, 0);
            await evaluator.step([{ sequence: 0, ids: first.toReversed() }], { logits: "none" });
            backend.writePage(part, whole);
            const rest = { sequence: 0, ids: ids.slice(64) };
            const [last] = await evaluator.step([rest], { logits: "last" });
            assertSameBits(last, expected, `${type}, a page written back, ${banks} memories`);
          },
        });
      }
    }
  });
}
