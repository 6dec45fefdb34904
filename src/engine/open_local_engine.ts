/** Opens a model and an engine in the present thread. */

import { createBackend } from "../backend/create.ts";
import { openCheckpoint } from "../formats/open.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { loadModel, readModelConfig } from "../model/registry.ts";
import type { Model } from "../model/types.ts";
import type { Backend } from "../backend/backend.ts";
import { LocalEngine } from "./local_engine.ts";
import { chooseSizes, type Sizing } from "./sizing.ts";
import { StepRunner } from "./step_runner.ts";
import type { EngineInfo, EngineOptions } from "./types.ts";
import type { OpenHooks } from "./worker_host.ts";

/**
 * Opens the checkpoint, the backend and the model. Throws FormatError, UnsupportedOpError,
 * CapacityError or OptionError; nothing stays open then.
 */
export async function openLocalEngine(
  options: EngineOptions,
  hooks: OpenHooks = {},
): Promise<LocalEngine> {
  const source = await openCheckpoint(options.model);
  try {
    const sizes = chooseSizes({ ...options, config: readModelConfig(source) });
    const backend = await createBackend(options);
    try {
      const model = await loadModel({
        source,
        backend,
        maxRows: sizes.maxRows,
        maxLogitRows: sizes.logitRows,
        onProgress: hooks.onProgress,
      });
      const runner = new StepRunner({ backend, model, slots: options.slots, ...sizes });
      return new LocalEngine({
        info: describe({ source, backend, model, sizes, slots: options.slots }),
        runner,
        chunkTokens: options.chunkTokens,
        logitRows: sizes.logitRows,
        pages: sizes.pages,
        maxWaiting: options.maxWaiting,
        onStepEnd: hooks.onStepEnd,
      });
    } catch (error) {
      backend.close();
      throw error;
    }
  } finally {
    source.close();
  }
}

function describe(
  options: {
    source: TensorSource;
    backend: Backend;
    model: Model;
    sizes: Sizing;
    slots: number;
  },
): EngineInfo {
  const { source, backend, model, sizes, slots } = options;
  const name = source.metadata.get("general.name");
  return {
    architecture: model.config.architecture,
    modelName: typeof name === "string" && name !== "" ? name : source.name,
    parameters: model.parameters,
    activeParameters: model.activeParameters,
    quantisation: mainType(source),
    vocabSize: model.config.vocabSize,
    contextLength: sizes.contextLength,
    slots,
    backend: backend.name,
    threads: backend.threads,
    activations: backend.activations,
    memory: backend.memory(),
    conversions: [...backend.conversions],
  };
}

/** The type that most bytes of the checkpoint have. */
function mainType(source: TensorSource): string {
  const bytes = new Map<string, number>();
  for (const { type, byteLength } of source.tensors.values()) {
    bytes.set(type, (bytes.get(type) ?? 0) + byteLength);
  }
  const [main] = [...bytes].sort((a, b) => b[1] - a[1]);
  return main?.[0] ?? "none";
}
