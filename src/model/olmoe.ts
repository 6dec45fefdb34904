/** OLMoE (Muennighoff et al. 2024): norms on whole rows of queries and keys, many small experts. */

import type { TensorSource } from "../formats/tensor_source.ts";
import { ConfigReader } from "./config_reader.ts";
import { loadDecoder } from "./decoder.ts";
import type { DecoderConfig } from "./decoder_config.ts";
import { readGroupedDecoder } from "./grouped_decoder.ts";
import { PLAIN_MIXTURE, readExperts } from "./mixture.ts";
import type { Architecture } from "./types.ts";

function readConfig(source: TensorSource): DecoderConfig {
  const reader = new ConfigReader(source, "olmoe");
  const clip = { gguf: "attention.clamp_kqv", huggingFace: "clip_qkv" };
  if (reader.has(clip)) {
    const is = reader.number(clip, { above: 0, max: 1e9 });
    throw reader.unsupported(clip, { is, must: "absent" });
  }
  const bias = { gguf: "attention_bias", huggingFace: "attention_bias" };
  const queryKeyValueBias = reader.boolean(bias, { fallback: false });
  if (queryKeyValueBias) throw reader.unsupported(bias, { is: true, must: "false" });
  const normalise = { gguf: "expert_weights_norm", huggingFace: "norm_topk_prob" };
  return readGroupedDecoder(reader, {
    source,
    traits: {
      ggufPairing: "halves",
      window: "width",
      queryKeyValueBias,
      outputBias: false,
      norms: "row",
    },
    rest: () => ({
      mixture: {
        ...PLAIN_MIXTURE,
        ...readExperts(reader, {
          experts: "num_experts",
          expertSize: "intermediate_size",
          layout: "apart",
        }),
        normalise: reader.boolean(normalise, { fallback: false }),
      },
    }),
  });
}

export const olmoe: Architecture<DecoderConfig> = {
  ggufName: "olmoe",
  huggingFaceNames: ["OlmoeForCausalLM"],
  readConfig,
  load: loadDecoder,
};
