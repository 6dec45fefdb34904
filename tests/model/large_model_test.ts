/** A model larger than one WebAssembly memory: resident in several, and paged through one. */

import { assert, assertEquals, assertGreater } from "@std/assert";
import { createBackend, type CreateBackendOptions } from "../../src/backend/create.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { Evaluator, type LayerRouting } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { assertSameBits } from "../backend/_harness.ts";
import { SPARSE, sparseModelObstacle, writeSparseModel } from "../support/sparse_model.ts";

/** What a WebAssembly memory holds. */
const MEMORY_BYTES = 2 ** 32;
const TOKENS = [3, 250, 17, 99, 140, 8];

interface Answer {
  readonly logits: Float32Array;
  readonly routing: readonly LayerRouting[];
  readonly greedy: readonly number[];
  /** Bytes of weights in memory, and bytes of experts read while running. */
  readonly weights: number;
  readonly bytesRead: number;
}

async function answer(
  path: string,
  options: Omit<CreateBackendOptions, "backend" | "activations">,
): Promise<Answer> {
  const source = await openCheckpoint(path);
  const { byteLength: weightBytes } = source;
  const backend = await createBackend({
    backend: "wasm",
    activations: "q8",
    weightBytes,
    ...options,
  });
  try {
    const model = await loadModel({ source, backend, maxRows: 8, maxLogitRows: 8 });
    const evaluator = new Evaluator({ model, backend, maxRows: 8, sequences: 1, tokens: 64 });
    const [logits] = await evaluator.allLogits([TOKENS], { chunk: 8 });
    const routing = await evaluator.routing();
    const last = await evaluator.prefill(TOKENS, { chunk: 4 });
    const greedy = await evaluator.greedy(last, { count: 3 });
    const traffic = backend.expertTraffic();
    const bytesRead = traffic.reduce((sum, { bytesRead }) => sum + bytesRead, 0);
    return { logits, routing, greedy, weights: backend.memory().weights, bytesRead };
  } finally {
    backend.close();
    source.close();
  }
}

/** Where the last matrices of the experts that a layer chose end in the file, the farthest. */
async function farthest(path: string, { layer, experts }: LayerRouting): Promise<number> {
  const source = await openCheckpoint(path);
  const tensor = source.tensors.get(`blk.${layer}.ffn_down_exps.weight`)!;
  const { offset } = source.locate!(tensor)!;
  source.close();
  return offset + (Math.max(...experts) + 1) * tensor.byteLength / SPARSE.experts;
}

const folder = Deno.makeTempDirSync();
const obstacle = sparseModelObstacle(folder);
Deno.removeSync(folder);

Deno.test({
  name: `a model of more than 4 GiB has the same bits in several memories and paged through one${
    obstacle === undefined ? "" : ` (skipped: ${obstacle})`
  }`,
  ignore: obstacle !== undefined,
  async fn() {
    const folder = await Deno.makeTempDir();
    try {
      const path = `${folder}/large.gguf`;
      const { byteLength } = writeSparseModel(path);
      assertGreater(byteLength, MEMORY_BYTES);
      const resident = await answer(path, { threads: 2 });
      assertGreater(resident.weights, MEMORY_BYTES);
      assertEquals(resident.bytesRead, 0);
      const lastLayer = resident.routing[SPARSE.layers - 1];
      assertGreater(await farthest(path, lastLayer), MEMORY_BYTES);

      const budget = { memoryBytes: 2 ** 30, expertCacheBytes: 256 * 2 ** 20 };
      const paged = await answer(path, { threads: 2, ...budget });
      assert(paged.weights < 2 ** 29 && paged.bytesRead > 2 ** 28, "experts are paged");
      assertSameBits(paged.logits, resident.logits, "logits");
      assertEquals(paged.routing, resident.routing);
      assertEquals(paged.greedy, resident.greedy);

      // Without what lies beyond 4 GiB the answer is another one.
      await Deno.truncate(path, MEMORY_BYTES);
      await Deno.truncate(path, byteLength);
      const { logits } = await answer(path, { threads: 1, ...budget });
      assert(logits.some((value, i) => value !== resident.logits[i]), "the far end matters");
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
