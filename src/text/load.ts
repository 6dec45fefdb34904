/** Opens everything a served model consists of, from one path. */

import { loadChatTemplate } from "../chat/mod.ts";
import { openEngine } from "../engine/open_engine.ts";
import type { EngineOptions, LoadProgress } from "../engine/types.ts";
import { openCheckpoint } from "../formats/open.ts";
import { loadTokenizer } from "../tokenizer/mod.ts";
import { readDefaultSampling } from "./default_sampling.ts";
import { createTextModel } from "./text_model.ts";
import type { TextModel } from "./types.ts";

/** What `loadModel` takes: the model's path, and what differs from the defaults. */
export interface LoadModelOptions extends Partial<Omit<EngineOptions, "model">> {
  /** Path of a GGUF file, a safetensors file or a Hugging Face folder. */
  readonly model: string;
  /** Called while weights are read. */
  readonly onProgress?: LoadProgress;
  /** Hears of what goes wrong without stopping the model: of a prefix cache that cannot be reached. */
  readonly onWarning?: (message: string) => void;
}

/** More threads than this wait for memory more than they compute. */
const MOST_THREADS = 8;

/** Threads where nothing is said: every core, up to eight. */
export function defaultThreads(): number {
  return Math.max(1, Math.min(navigator.hardwareConcurrency, MOST_THREADS));
}

export const DEFAULT_ENGINE_OPTIONS: Readonly<
  Pick<EngineOptions, "backend" | "activations" | "slots" | "chunkTokens">
> = Object.freeze({
  backend: "auto",
  activations: "q16",
  slots: 4,
  chunkTokens: 128,
});

/**
 * Opens a model: its engine in a worker, its tokenizer and its chat template here. Rejects with
 * FormatError (damaged file), UnsupportedOpError (unknown architecture), CapacityError (memory) or
 * OptionError. `close` ends the worker.
 */
export async function loadModel(options: LoadModelOptions): Promise<TextModel> {
  const { onProgress, onWarning, ...rest } = options;
  const source = await openCheckpoint(options.model);
  try {
    const tokenizer = await loadTokenizer(source);
    const template = await loadChatTemplate(source, { tokenizer });
    const defaultSampling = await readDefaultSampling(source);
    const engine = await openEngine({
      ...DEFAULT_ENGINE_OPTIONS,
      threads: defaultThreads(),
      ...rest,
    }, { onProgress, onWarning });
    return createTextModel({ engine, tokenizer, template, defaultSampling });
  } finally {
    source.close();
  }
}
