/** A model's hyper-parameters as llama.cpp's converter writes them. */

import { UnsupportedOpError } from "../errors.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { ConfigReader } from "../model/config_reader.ts";
import type { DecoderConfig } from "../model/decoder_config.ts";
import type { LatentAttentionConfig } from "../model/latent_attention.ts";
import type { MixtureConfig } from "../model/mixture.ts";
import {
  readRopeParameters,
  ropeFrequencies,
  type RopeParameters,
  yarnAttentionFactor,
  yarnMscale,
} from "../model/rope.ts";
import { bool, f32, type KeyValues, text, u32 } from "./values.ts";

/** Families that can be written; others differ in more than names. */
const ARCHITECTURES: readonly string[] = Object.freeze(["deepseek2", "llama", "qwen2"]);

const SCORES = ["softmax", "sigmoid", "softmaxOfChosen"] as const;

export interface HyperParameters {
  readonly keys: KeyValues;
  /** Divisors of the rotary frequencies, where the scaling is one that GGUF keeps as a tensor. */
  readonly ropeFactors?: Float32Array;
}

/** Throws UnsupportedOpError for what GGUF, or llama.cpp's way of reading it, has no words for. */
export function hyperParameters(source: TensorSource, config: DecoderConfig): HyperParameters {
  const { architecture, attention, mixture } = config;
  if (!ARCHITECTURES.includes(architecture)) {
    throw refusal("the architecture", architecture, `one of ${ARCHITECTURES.join(", ")}`);
  }
  if (architecture === "deepseek2" && config.rope.pairing !== "interleaved") {
    throw refusal('"rope_interleave"', "false", "true");
  }
  const grouped = attention.kind === "grouped";
  const reader = new ConfigReader(source, architecture);
  const headDim = grouped ? attention.headDim : attention.ropeDim;
  const rope = readRopeParameters(reader, { headDim, contextLength: config.contextLength });
  const own: KeyValues = {
    block_count: u32(config.layers),
    context_length: u32(config.contextLength),
    embedding_length: u32(config.hiddenSize),
    feed_forward_length: u32(config.intermediateSize),
    vocab_size: u32(config.vocabSize),
    "attention.head_count": u32(config.heads),
    "attention.head_count_kv": u32(grouped ? config.kvHeads : 1),
    "attention.layer_norm_rms_epsilon": f32(config.rmsNormEps),
    ...(grouped
      ? {
        "attention.key_length": u32(config.headDim),
        "attention.value_length": u32(config.headDim),
      }
      : latentKeys(attention)),
    ...(mixture && mixtureKeys(mixture, config.routed)),
    ...ropeKeys(rope, { latent: !grouped }),
  };
  const keys = Object.fromEntries(
    Object.entries(own).map(([key, value]) => [`${architecture}.${key}`, value]),
  );
  const ropeFactors = factorsOf(rope);
  return { keys, ...(ropeFactors && { ropeFactors }) };
}

function latentKeys(attention: LatentAttentionConfig): KeyValues {
  const { latentDim, queryLatentDim = 0, nopeDim, ropeDim, valueDim } = attention;
  return {
    // 0 where queries are projected at once: llama.cpp asks for the key all the same.
    "attention.q_lora_rank": u32(queryLatentDim),
    "attention.kv_lora_rank": u32(latentDim),
    // What the cache holds, and what a head would have without latents.
    "attention.key_length": u32(latentDim + ropeDim),
    "attention.value_length": u32(latentDim),
    "attention.key_length_mla": u32(nopeDim + ropeDim),
    "attention.value_length_mla": u32(valueDim),
  };
}

function mixtureKeys(mixture: MixtureConfig, routed: readonly boolean[]): KeyValues {
  const { experts, topK, expertSize, sharedSize, scale, normalise, score, groups } = mixture;
  const first = routed.indexOf(true);
  return {
    leading_dense_block_count: u32(first < 0 ? routed.length : first),
    expert_count: u32(experts),
    expert_used_count: u32(topK),
    expert_feed_forward_length: u32(expertSize),
    expert_shared_count: u32(sharedSize / expertSize),
    expert_weights_scale: f32(scale),
    expert_weights_norm: bool(normalise),
    expert_gating_func: u32(SCORES.indexOf(score) + 1),
    expert_group_count: u32(groups?.count ?? 1),
    expert_group_used_count: u32(groups?.used ?? 1),
  };
}

function ropeKeys({ theta, dim, scaling }: RopeParameters, { latent }: { latent: boolean }) {
  const keys: KeyValues = { "rope.dimension_count": u32(dim), "rope.freq_base": f32(theta) };
  const key = (name: string) => `rope.scaling.${name}`;
  switch (scaling.type) {
    case "none":
    case "llama3":
      return keys;
    case "linear":
      return { ...keys, [key("type")]: text("linear"), [key("factor")]: f32(scaling.factor) };
    case "yarn": {
      const { factor, mscaleAllDim, truncate } = scaling;
      if (!truncate) throw refusal('"truncate" of the rotary scaling', "false", "true");
      const inScores = latent && mscaleAllDim !== 0;
      // GGUF's factor comes on top of YaRN's own, which it has only where scores have none.
      const extra = yarnAttentionFactor(scaling) / (inScores ? 1 : yarnMscale(factor, 1));
      return {
        ...keys,
        [key("type")]: text("yarn"),
        [key("factor")]: f32(factor),
        [key("original_context_length")]: u32(scaling.originalContext),
        [key("yarn_beta_fast")]: f32(scaling.betaFast),
        [key("yarn_beta_slow")]: f32(scaling.betaSlow),
        [key("yarn_log_multiplier")]: inScores ? f32(0.1 * mscaleAllDim) : undefined,
        [key("attn_factor")]: extra === 1 ? undefined : f32(extra),
      };
    }
  }
}

function factorsOf({ theta, dim, scaling }: RopeParameters): Float32Array | undefined {
  if (scaling.type !== "llama3") return undefined;
  const plain = ropeFrequencies({ dim, theta, scaling: { type: "none" } }).inverseFrequencies;
  const scaled = ropeFrequencies({ dim, theta, scaling }).inverseFrequencies;
  return plain.map((frequency, pair) => frequency / scaled[pair]);
}

function refusal(what: string, is: string, must: string): UnsupportedOpError {
  return new UnsupportedOpError(`cannot export this model: ${what} is ${is}, must be ${must}`);
}
