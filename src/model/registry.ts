/** The families of models that can be loaded. Adding one is a file and one line here. */

import { FormatError, UnsupportedOpError } from "../errors.ts";
import type { MetadataValue, TensorSource } from "../formats/tensor_source.ts";
import { deepseek } from "./deepseek.ts";
import { gptOss } from "./gpt_oss.ts";
import { graniteMoe } from "./granite_moe.ts";
import { llama } from "./llama.ts";
import { mixtral } from "./mixtral.ts";
import { olmoe } from "./olmoe.ts";
import { qwen2 } from "./qwen2.ts";
import { qwen3, qwen3Moe } from "./qwen3.ts";
import type { Architecture, LoadModelOptions, Model, ModelConfig } from "./types.ts";

const ARCHITECTURES: readonly Architecture[] = Object.freeze([
  deepseek,
  gptOss,
  graniteMoe,
  llama,
  mixtral,
  olmoe,
  qwen2,
  qwen3,
  qwen3Moe,
]);

/** Reads and checks the hyper-parameters; nothing is allocated. */
export function readModelConfig(source: TensorSource): ModelConfig {
  return architectureOf(source).readConfig(source);
}

/**
 * Loads a checkpoint onto a backend. Throws FormatError where the file contradicts itself or its
 * weights are not those of its configuration, UnsupportedOpError for models that are not implemented
 * and CapacityError where the backend's memory is too small.
 */
export async function loadModel(options: LoadModelOptions): Promise<Model> {
  const architecture = architectureOf(options.source);
  return await architecture.load(architecture.readConfig(options.source), options);
}

function architectureOf(source: TensorSource): Architecture {
  const name = architectureName(source);
  const found = ARCHITECTURES.find((candidate) =>
    source.format === "gguf"
      ? candidate.ggufName === name
      : candidate.huggingFaceNames.includes(name)
  );
  if (found !== undefined) return found;
  const supported = ARCHITECTURES.flatMap((candidate) =>
    source.format === "gguf" ? candidate.ggufName ?? [] : candidate.huggingFaceNames
  );
  throw new UnsupportedOpError(
    `cannot load "${source.name}": its architecture is ${JSON.stringify(name.slice(0, 80))}, ` +
      `must be one of ${supported.join(", ")}`,
  );
}

/** `general.architecture` of a GGUF file, the first of `architectures` in config.json. */
function architectureName(source: TensorSource): string {
  const gguf = source.format === "gguf";
  const key = gguf ? "general.architecture" : "architectures";
  const value = source.metadata.get(key);
  const name = gguf ? value : firstOf(value);
  if (typeof name === "string") return name;
  throw FormatError.of(
    `load "${source.name}"`,
    gguf ? `"${key}"` : `"${key}" of its config.json`,
    value === undefined ? "missing" : "something else",
    gguf ? "a string" : "a list that starts with a string",
  );
}

function firstOf(value: MetadataValue | undefined): MetadataValue | undefined {
  return Array.isArray(value) ? value[0] : undefined;
}
