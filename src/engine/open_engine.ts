/** Opens a model in a worker of its own: what servers and embedding programs use. */

import { openStoreWorker } from "../cache/open_worker.ts";
import type { Engine, EngineOptions, LoadProgress } from "./types.ts";
import { WorkerEngine } from "./worker_engine.ts";

/**
 * Starts a worker, opens the model in it and resolves when it is ready. Rejects with FormatError,
 * UnsupportedOpError, CapacityError or OptionError, as `openLocalEngine` throws them. The worker lives
 * until `close`.
 */
export async function openEngine(
  options: EngineOptions,
  hooks: { readonly onProgress?: LoadProgress } = {},
): Promise<Engine> {
  return await WorkerEngine.open({
    start: () => new Worker(new URL("./worker_main.ts", import.meta.url), { type: "module" }),
    engine: options,
    onProgress: hooks.onProgress,
  });
}
