/**
 * GPT-OSS (OpenAI 2025): biases everywhere, attention sinks, windows in every other layer, a clamped
 * activation, and experts that its own checkpoints keep in MXFP4.
 */

import type { TensorSource } from "../formats/tensor_source.ts";
import { type ConfigKey, ConfigReader } from "./config_reader.ts";
import { loadDecoder } from "./decoder.ts";
import { type DecoderConfig, decoderConfig, readBase } from "./decoder_config.ts";
import { readGroupedAttention } from "./grouped_attention.ts";
import { MAX_CONTEXT } from "./limits.ts";
import { PLAIN_MIXTURE, readExperts } from "./mixture.ts";
import type { NameOverrides } from "./names.ts";
import { readQuantization } from "./quantization.ts";
import { readRope } from "./rope.ts";
import type { Architecture } from "./types.ts";

const MLP = "model.layers.{}.mlp";

const NAMES: NameOverrides = Object.freeze({
  mlpNorm: ["blk.{}.post_attention_norm.weight", "model.layers.{}.post_attention_layernorm.weight"],
  moeGate: ["blk.{}.ffn_gate_inp.weight", `${MLP}.router.weight`],
  moeGateBias: ["blk.{}.ffn_gate_inp.bias", `${MLP}.router.bias`],
  expertsDown: ["blk.{}.ffn_down_exps.weight", `${MLP}.experts.down_proj`],
  expertsDownBias: ["blk.{}.ffn_down_exps.bias", `${MLP}.experts.down_proj_bias`],
});

const MXFP4_NAMES: NameOverrides = Object.freeze({
  ...NAMES,
  expertsGateUp: [null, `${MLP}.experts.gate_up_proj_blocks`],
  expertsDown: [null, `${MLP}.experts.down_proj_blocks`],
});

const KEYS = {
  window: { gguf: "attention.sliding_window", huggingFace: "sliding_window" },
  layerTypes: { gguf: "layer_types", huggingFace: "layer_types" },
  limit: { gguf: "swiglu_limit", huggingFace: "swiglu_limit" },
  expertSize: { gguf: "expert_feed_forward_length", huggingFace: "intermediate_size" },
  attentionBias: { gguf: "attention_bias", huggingFace: "attention_bias" },
} as const satisfies Record<string, ConfigKey>;

/** The clamp that the activation is defined with. */
const SWIGLU_LIMIT = 7;
const MXFP4_BLOCK = 32;

function readConfig(source: TensorSource): DecoderConfig {
  const reader = new ConfigReader(source, "gpt-oss");
  const base = readBase(reader, source);
  const { hiddenSize, contextLength, layers } = base;
  const limit = reader.number(KEYS.limit, { above: 0, max: 1e6, fallback: SWIGLU_LIMIT });
  if (limit !== SWIGLU_LIMIT) {
    throw reader.unsupported(KEYS.limit, { is: limit, must: String(SWIGLU_LIMIT) });
  }
  if (!reader.boolean(KEYS.attentionBias, { fallback: true })) {
    throw reader.unsupported(KEYS.attentionBias, { is: false, must: "true" });
  }
  const attention = readGroupedAttention(reader, {
    hiddenSize,
    traits: {
      queryKeyValueBias: true,
      outputBias: true,
      norms: "none",
      windows: Object.freeze(readWindows(reader, layers)),
      sinks: true,
    },
  });
  const mxfp4 = readQuantization(source).method === "mxfp4";
  const experts = readExperts(reader, {
    experts: "num_local_experts",
    expertSize: "intermediate_size",
    layout: mxfp4 ? "interleavedMxfp4" : "interleaved",
  });
  for (const width of mxfp4 ? [hiddenSize, experts.expertSize] : []) {
    if (width % MXFP4_BLOCK === 0) continue;
    const must = `a multiple of ${MXFP4_BLOCK}, as MXFP4 has it`;
    throw reader.contradiction(KEYS.expertSize, { is: width, must });
  }
  return decoderConfig(base, {
    attention,
    // Published configurations say `truncate: false`; GGUF files cannot.
    rope: readRope(reader, {
      headDim: attention.headDim,
      contextLength,
      pairing: "halves",
      ggufTruncate: false,
    }),
    mixture: {
      ...PLAIN_MIXTURE,
      ...experts,
      score: "softmaxOfChosen",
      normalise: false,
      gateBias: true,
      expertBiases: true,
      activation: "clampedSwiglu",
    },
    names: mxfp4 ? MXFP4_NAMES : NAMES,
  });
}

/** Windows in the layers that config.json names, by default and in GGUF in every other, from the first. */
function readWindows(reader: ConfigReader, layers: number): (number | undefined)[] {
  const window = reader.integer(KEYS.window, { min: 1, max: MAX_CONTEXT });
  const allowed = ["sliding_attention", "full_attention"] as const;
  const types = reader.texts(KEYS.layerTypes, { allowed }) ??
    Array.from({ length: layers }, (_, layer) => allowed[layer % 2]);
  if (types.length !== layers) {
    throw reader.contradiction(KEYS.layerTypes, {
      is: `${types.length} long`,
      must: `${layers} long, one entry a layer`,
    });
  }
  return types.map((type) => type === "sliding_attention" ? window : undefined);
}

export const gptOss: Architecture<DecoderConfig> = {
  ggufName: "gpt-oss",
  huggingFaceNames: ["GptOssForCausalLM"],
  readConfig,
  load: loadDecoder,
};
