/**
 * Granite's mixtures (IBM Granite team 2024): Llama's layers with a factor on embeddings, on what each
 * block adds, on scores and on logits.
 */

import type { TensorSource } from "../formats/tensor_source.ts";
import { type ConfigKey, ConfigReader } from "./config_reader.ts";
import { loadDecoder } from "./decoder.ts";
import type { DecoderConfig } from "./decoder_config.ts";
import { readGroupedDecoder } from "./grouped_decoder.ts";
import { PLAIN_MIXTURE, readExperts } from "./mixture.ts";
import type { NameOverrides } from "./names.ts";
import type { Architecture } from "./types.ts";

const MOE = "model.layers.{}.block_sparse_moe";

const NAMES: NameOverrides = Object.freeze({
  moeGate: ["blk.{}.ffn_gate_inp.weight", `${MOE}.router.layer.weight`],
  expertsGateUp: [null, `${MOE}.input_linear.weight`],
  expertsDown: ["blk.{}.ffn_down_exps.weight", `${MOE}.output_linear.weight`],
});

const KEYS = {
  attentionScale: { gguf: "attention.scale", huggingFace: "attention_multiplier" },
  embeddingScale: { gguf: "embedding_scale", huggingFace: "embedding_multiplier" },
  residualScale: { gguf: "residual_scale", huggingFace: "residual_multiplier" },
  logitDivisor: { gguf: "logit_scale", huggingFace: "logits_scaling" },
  attentionBias: { gguf: "attention_bias", huggingFace: "attention_bias" },
} as const satisfies Record<string, ConfigKey>;

function readConfig(source: TensorSource): DecoderConfig {
  const reader = new ConfigReader(source, "granitemoe");
  if (reader.boolean(KEYS.attentionBias, { fallback: false })) {
    throw reader.unsupported(KEYS.attentionBias, { is: true, must: "false" });
  }
  const factor = (key: ConfigKey) => reader.number(key, { above: 0, max: 1e6, fallback: 1 });
  return readGroupedDecoder(reader, {
    source,
    traits: {
      ggufPairing: "interleaved",
      window: "width",
      queryKeyValueBias: false,
      outputBias: false,
      norms: "none",
      // Without the key the scores have no factor at all: the multiplier's default is 1.
      scale: factor(KEYS.attentionScale),
    },
    rest: () => ({
      mixture: {
        ...PLAIN_MIXTURE,
        ...readExperts(reader, {
          experts: "num_local_experts",
          expertSize: "intermediate_size",
          layout: "joined",
        }),
        score: "softmaxOfChosen",
        normalise: false,
      },
      names: NAMES,
      embeddingScale: factor(KEYS.embeddingScale),
      residualScale: factor(KEYS.residualScale),
      logitScale: 1 / factor(KEYS.logitDivisor),
    }),
  });
}

export const graniteMoe: Architecture<DecoderConfig> = {
  ggufName: "granitemoe",
  huggingFaceNames: ["GraniteMoeForCausalLM"],
  readConfig,
  load: loadDecoder,
};
