/** Qwen3, dense (Yang et al. 2025): no biases, and a norm on each head of queries and keys. */

import { UnsupportedOpError } from "../errors.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { ConfigReader } from "./config_reader.ts";
import { type DenseConfig, loadDense, readDenseConfig } from "./dense.ts";
import type { Architecture } from "./types.ts";

function readConfig(source: TensorSource): DenseConfig {
  if (source.format === "safetensors") {
    const key = { gguf: "attention_bias", huggingFace: "attention_bias" };
    if (new ConfigReader(source, "qwen3").boolean(key, { fallback: false })) {
      throw new UnsupportedOpError(
        'cannot run this model: "attention_bias" is true, must be false in Qwen3',
      );
    }
  }
  return readDenseConfig(source, {
    architecture: "qwen3",
    ggufPairing: "halves",
    queryKeyValueBias: false,
    attentionOutputBias: false,
    headNorms: true,
  });
}

export const qwen3: Architecture<DenseConfig> = {
  ggufName: "qwen3",
  huggingFaceNames: ["Qwen3ForCausalLM"],
  readConfig,
  load: loadDense,
};
