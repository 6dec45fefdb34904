/** A small mixture paged from a copy of its file, which tests may damage. */

import { assert } from "@std/assert";
import type { Backend } from "../../../src/backend/backend.ts";
import type { PagingOptions } from "../../../src/backend/wasm/paging/options.ts";
import { createWasmBackend } from "../../../src/backend/wasm/mod.ts";
import { openCheckpoint } from "../../../src/formats/open.ts";
import { Evaluator } from "../../../src/model/evaluate.ts";
import { loadModel } from "../../../src/model/registry.ts";
import { ROOT } from "../../support/fixtures.ts";

/** Three layers of 16 experts, four of them chosen. */
export const MIXTURE = new URL(
  "tests/data/goldens/gguf/deepseek_v3/deepseek_v3.q8_0.gguf",
  ROOT,
).pathname;
/** Bytes of an expert, three matrices of 2176 bytes. */
export const EXPERT_BYTES = 3 * 2176;

export const TOKENS = [5, 100, 7, 30, 2, 250, 77, 19, 3, 42, 120, 9];

export interface Paged {
  readonly backend: Backend;
  readonly evaluator: Evaluator;
}

/** Opens the file or URL and loads the model with room for `slots` experts. */
export async function withPaged(
  place: string,
  options: { slots: number; threads?: number; banks?: number; bankBytes?: number } & PagingOptions,
  body: (paged: Paged) => Promise<void>,
): Promise<void> {
  const { slots, threads = 2, banks, bankBytes, ...paging } = options;
  const source = await openCheckpoint(place);
  const backend = await createWasmBackend({
    threads,
    activations: "q8",
    banks,
    bankBytes,
    paging: { cacheBytes: slots * EXPERT_BYTES, ...paging },
  });
  try {
    const model = await loadModel({ source, backend, maxRows: 16, maxLogitRows: 16 });
    const evaluator = new Evaluator({ model, backend, maxRows: 16, sequences: 1, tokens: 64 });
    await body({ backend, evaluator });
  } finally {
    backend.close();
    source.close();
  }
}

/** The logits of all tokens; with few slots, every run reads experts anew. */
export async function evaluate({ evaluator }: Paged): Promise<Float32Array> {
  const [logits] = await evaluator.allLogits([TOKENS], { chunk: 5 });
  return logits;
}

/** The right logits, of the resident model. */
export async function rightLogits(): Promise<Float32Array> {
  const source = await openCheckpoint(MIXTURE);
  const backend = await createWasmBackend({ threads: 1, activations: "q8" });
  try {
    const model = await loadModel({ source, backend, maxRows: 16, maxLogitRows: 16 });
    const evaluator = new Evaluator({ model, backend, maxRows: 16, sequences: 1, tokens: 64 });
    const logits = await evaluate({ evaluator, backend });
    assert(logits.every(Number.isFinite));
    return logits;
  } finally {
    backend.close();
    source.close();
  }
}

/** Runs `body` with a copy of the mixture in a folder of its own. */
export async function withCopy(body: (path: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    const path = `${folder}/copied.gguf`;
    await Deno.copyFile(MIXTURE, path);
    await body(path);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
