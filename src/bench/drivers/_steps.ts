/** A model on a backend without the engine, for drivers of bare steps. */

import type { ActivationPrecision, Backend } from "../../backend/backend.ts";
import { createBackend, type CreateBackendOptions } from "../../backend/create.ts";
import { openCheckpoint } from "../../formats/open.ts";
import { Evaluator } from "../../model/evaluate.ts";
import { loadModel } from "../../model/registry.ts";
import type { Model } from "../../model/types.ts";
import { DEFAULT_ENGINE_OPTIONS } from "../../text/load.ts";

export interface Steps {
  readonly backend: Backend;
  readonly model: Model;
  readonly evaluator: Evaluator;
  /** Prompt tokens per step. */
  readonly chunk: number;
}

/** How routed experts are paged; they stay in memory where nothing is said. */
export type PagingChoice = Pick<
  CreateBackendOptions,
  "memoryBytes" | "expertCacheBytes" | "lookAhead"
>;

/**
 * Opens a model for so many sequences side by side. Arguments as the command line has them: the
 * model's path, threads, activations, tokens of context of each sequence.
 */
export async function openSteps(
  [path, threads, activations, context]: readonly string[],
  { sequences, paging = {} }: { sequences: number; paging?: PagingChoice },
): Promise<Steps> {
  const chunk = DEFAULT_ENGINE_OPTIONS.chunkTokens;
  const source = await openCheckpoint(path);
  const backend = await createBackend({
    backend: "wasm",
    threads: Number(threads),
    activations: activations as ActivationPrecision,
    weightBytes: source.byteLength,
    ...paging,
  });
  const maxRows = Math.max(chunk, sequences);
  const model = await loadModel({ source, backend, maxRows, maxLogitRows: sequences });
  const tokens = Number(context);
  const evaluator = new Evaluator({ model, backend, maxRows, sequences, tokens });
  return { backend, model, evaluator, chunk };
}
