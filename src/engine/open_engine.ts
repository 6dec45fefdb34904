/** Opens a model in a worker of its own: what servers and embedding programs use. */

import { openStoreWorker, type StoreWorker } from "../cache/store_worker.ts";
import { chooseBackend } from "../backend/create.ts";
import { baseName } from "../formats/byte_source.ts";
import type { Engine, EngineOptions, LoadProgress } from "./types.ts";
import { WorkerEngine } from "./worker_engine.ts";

export interface OpenEngineHooks {
  readonly onProgress?: LoadProgress;
  /** Hears of what goes wrong without stopping the engine, a sentence each. */
  readonly onWarning?: (message: string) => void;
}

/**
 * Starts a worker, opens the model in it and resolves when it is ready; with `cache` the prefix cache's
 * store runs in another worker, and opens while the model loads. Rejects with FormatError,
 * UnsupportedOpError, CapacityError or OptionError, as `openLocalEngine` throws them. The workers live
 * until `close`.
 */
export async function openEngine(
  options: EngineOptions,
  hooks: OpenEngineHooks = {},
): Promise<Engine> {
  const { cache, model, reusePrefixes = true, faults } = options;
  let store: StoreWorker | undefined;
  if (cache !== undefined && reusePrefixes) {
    const { onWarning } = hooks;
    store = openStoreWorker({ ...cache, model: baseName(model), faults }, { onWarning });
  }
  try {
    return await WorkerEngine.open({
      start: () => new Worker(new URL("./worker_main.ts", import.meta.url), { type: "module" }),
      engine: { ...options, ...await backendOf(options) },
      store,
      onProgress: hooks.onProgress,
    });
  } catch (error) {
    await store?.close();
    throw error;
  }
}

/**
 * "auto" only where a GPU is there, which the worker then finds again. Looked for in this thread: of a
 * worker that has looked, Deno 2.9.6 sometimes dies at the end of the process.
 */
async function backendOf(
  options: EngineOptions,
): Promise<Pick<EngineOptions, "backend" | "backendChosen">> {
  const { backend } = options;
  if (backend !== "auto" || await chooseBackend(options) === "webgpu") return { backend };
  return { backend: "wasm", backendChosen: true };
}
