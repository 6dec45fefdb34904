/**
 * Llama (Touvron et al. 2023) and what shares its layers: Llama 2 and 3, SmolLM2, Mistral-like
 * checkpoints saved as Llama, R1-Distill-Llama.
 */

import { UnsupportedOpError } from "../errors.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { ConfigReader } from "./config_reader.ts";
import { type DenseConfig, loadDense, readDenseConfig } from "./dense.ts";
import { tensorName } from "./names.ts";
import type { Architecture } from "./types.ts";

function readConfig(source: TensorSource): DenseConfig {
  const biases = readBiases(source);
  return readDenseConfig(source, {
    architecture: "llama",
    // GGUF's converter reorders the rows of q and k so that pairs are neighbours.
    ggufPairing: "interleaved",
    headNorms: false,
    ...biases,
  });
}

/** config.json has one switch for all four biases; GGUF files just hold the tensors or don't. */
function readBiases(
  source: TensorSource,
): { queryKeyValueBias: boolean; attentionOutputBias: boolean } {
  if (source.format === "gguf") {
    const has = (role: "queryBias" | "attentionOutputBias") =>
      source.tensors.has(tensorName(role, { format: "gguf", layer: 0 }));
    return { queryKeyValueBias: has("queryBias"), attentionOutputBias: has("attentionOutputBias") };
  }
  const reader = new ConfigReader(source, "llama");
  const flag = (name: string) =>
    reader.boolean({ gguf: name, huggingFace: name }, { fallback: false });
  if (flag("mlp_bias")) {
    throw new UnsupportedOpError('cannot run this model: "mlp_bias" is true, must be false');
  }
  const bias = flag("attention_bias");
  return { queryKeyValueBias: bias, attentionOutputBias: bias };
}

export const llama: Architecture<DenseConfig> = {
  ggufName: "llama",
  huggingFaceNames: ["LlamaForCausalLM"],
  readConfig,
  load: loadDense,
};
