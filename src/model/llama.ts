/**
 * Llama (Touvron et al. 2023) and what shares its layers: Llama 2 and 3, SmolLM2, Mistral-like
 * checkpoints saved as Llama, R1-Distill-Llama. GGUF files of Mixtral call themselves llama as well.
 */

import { UnsupportedOpError } from "../errors.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { ConfigReader } from "./config_reader.ts";
import { loadDecoder } from "./decoder.ts";
import type { DecoderConfig } from "./decoder_config.ts";
import { readGroupedDecoder } from "./grouped_decoder.ts";
import { readMixtral } from "./mixtral.ts";
import { tensorName } from "./names.ts";
import type { Architecture } from "./types.ts";

function readConfig(source: TensorSource): DecoderConfig {
  const reader = new ConfigReader(source, "llama");
  const experts = { gguf: "expert_count", huggingFace: "num_local_experts" };
  const count = reader.integer(experts, { min: 0, max: 2 ** 20, fallback: 0 });
  if (count > 0 && source.format === "gguf") return readMixtral(source);
  if (count > 0) throw reader.unsupported(experts, { is: count, must: "0 in a dense model" });
  return readGroupedDecoder(reader, {
    source,
    traits: {
      // GGUF's converter reorders the rows of q and k so that pairs are neighbours.
      ggufPairing: "interleaved",
      window: "use_sliding_window",
      norms: "none",
      ...readBiases(reader, source),
    },
  });
}

/** config.json has one switch for all four biases; GGUF files just hold the tensors or don't. */
function readBiases(
  reader: ConfigReader,
  source: TensorSource,
): { queryKeyValueBias: boolean; outputBias: boolean } {
  if (source.format === "gguf") {
    const has = (role: "queryBias" | "attentionOutputBias") =>
      source.tensors.has(tensorName(role, { format: "gguf", layer: 0 }));
    return { queryKeyValueBias: has("queryBias"), outputBias: has("attentionOutputBias") };
  }
  const flag = (name: string) =>
    reader.boolean({ gguf: name, huggingFace: name }, { fallback: false });
  if (flag("mlp_bias")) {
    throw new UnsupportedOpError('cannot run this model: "mlp_bias" is true, must be false');
  }
  const bias = flag("attention_bias");
  return { queryKeyValueBias: bias, outputBias: bias };
}

export const llama: Architecture<DecoderConfig> = {
  ggufName: "llama",
  huggingFaceNames: ["LlamaForCausalLM"],
  readConfig,
  load: loadDecoder,
};
