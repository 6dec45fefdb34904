/**
 * DeepSeek-V2 (2024), DeepSeek-V3 (2024) and R1 (2025): latent attention, dense layers first, then
 * mixtures with a shared expert whose routed experts are chosen within the best groups.
 */

import { OptionError } from "../errors.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { type ConfigKey, ConfigReader } from "./config_reader.ts";
import { loadDecoder } from "./decoder.ts";
import {
  type BaseConfig,
  type DecoderConfig,
  decoderConfig,
  readBase,
  refuseMxfp4,
} from "./decoder_config.ts";
import { hasLegacyLatentUp, readLatentAttention } from "./latent_attention.ts";
import { MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH } from "./limits.ts";
import { groupsProblem, type MixtureConfig, PLAIN_MIXTURE, readExperts } from "./mixture.ts";
import { readRope } from "./rope.ts";
import type { Architecture, LoadModelOptions, Model } from "./types.ts";

const KEYS = {
  denseLayers: { gguf: "leading_dense_block_count", huggingFace: "first_k_dense_replace" },
  mixtureEvery: { gguf: "", huggingFace: "moe_layer_freq" },
  sharedExperts: { gguf: "expert_shared_count", huggingFace: "n_shared_experts" },
  gatingFunction: { gguf: "expert_gating_func", huggingFace: "" },
  normalise: { gguf: "expert_weights_norm", huggingFace: "norm_topk_prob" },
  weightScale: { gguf: "expert_weights_scale", huggingFace: "routed_scaling_factor" },
  groups: { gguf: "expert_group_count", huggingFace: "n_group" },
  groupsUsed: { gguf: "expert_group_used_count", huggingFace: "topk_group" },
  method: { gguf: "", huggingFace: "topk_method" },
  interleaved: { gguf: "", huggingFace: "rope_interleave" },
  attentionBias: { gguf: "attention_bias", huggingFace: "attention_bias" },
} as const satisfies Record<string, ConfigKey>;

/** How the gate scores and limits its choice. */
type Gating = Pick<MixtureConfig, "score" | "groups" | "normalise" | "correctionBias">;

function readConfig(source: TensorSource): DecoderConfig {
  const reader = new ConfigReader(source, "deepseek2");
  const base = readBase(reader, source);
  const { contextLength } = base;
  refuseMxfp4(source);
  if (reader.boolean(KEYS.attentionBias, { fallback: false })) {
    throw reader.unsupported(KEYS.attentionBias, { is: true, must: "false" });
  }
  const attention = readLatentAttention(reader, source);
  const halves = source.format === "safetensors" &&
    !reader.boolean(KEYS.interleaved, { fallback: true });
  const rope = readRope(reader, {
    headDim: attention.ropeDim,
    contextLength,
    pairing: halves ? "halves" : "interleaved",
  });
  const mixture = readMixture(reader, source);
  const routed = Object.freeze(readRouted(reader, base));
  return decoderConfig(base, { attention, rope, mixture, routed });
}

function readRouted(reader: ConfigReader, { layers }: BaseConfig): boolean[] {
  const dense = reader.integer(KEYS.denseLayers, { min: 0, max: layers, fallback: 0 });
  if (reader.format === "safetensors") {
    const every = reader.integer(KEYS.mixtureEvery, { min: 1, max: MAX_LAYERS, fallback: 1 });
    if (every !== 1) throw reader.unsupported(KEYS.mixtureEvery, { is: every, must: "1" });
  }
  return Array.from({ length: layers }, (_, layer) => layer >= dense);
}

function readMixture(reader: ConfigReader, source: TensorSource): MixtureConfig {
  const keys = {
    experts: "n_routed_experts",
    expertSize: "moe_intermediate_size",
    layout: "apart",
  } as const;
  const experts = readExperts(reader, keys);
  const shared = reader.integer(KEYS.sharedExperts, { min: 0, max: MAX_EXPERTS, fallback: 0 });
  const sharedSize = shared * experts.expertSize;
  if (sharedSize > MAX_WIDTH) {
    const must = `at most ${Math.floor(MAX_WIDTH / experts.expertSize)}`;
    throw reader.contradiction(KEYS.sharedExperts, { is: shared, must });
  }
  // GGUF files of models without a factor state 0.
  const scale = reader.number(KEYS.weightScale, { above: -1e-300, max: 1e6, fallback: 1 }) || 1;
  const gguf = source.format === "gguf";
  return {
    ...PLAIN_MIXTURE,
    ...experts,
    sharedSize,
    scale,
    ...(gguf
      ? readGgufGating(reader, { source, experts })
      : readGating(reader, { source, experts })),
  };
}

type Experts = Pick<MixtureConfig, "experts" | "topK">;

/** V2's gate takes the softmax and never normalises in transformers, whatever `norm_topk_prob` says. */
function readGating(
  reader: ConfigReader,
  { source, experts }: { source: TensorSource; experts: Experts },
): Gating {
  const [name] = source.metadata.get("architectures") as readonly string[];
  if (name !== "DeepseekV2ForCausalLM") {
    return {
      score: "sigmoid",
      normalise: reader.boolean(KEYS.normalise, { fallback: true }),
      correctionBias: true,
      ...readGroups(reader, { experts, rank: "topTwo" }),
    };
  }
  const method = reader.text(KEYS.method, { fallback: "greedy" });
  if (method !== "greedy" && method !== "group_limited_greedy") {
    throw reader.unsupported(KEYS.method, { is: method, must: "greedy or group_limited_greedy" });
  }
  const groups = method === "greedy" ? {} : readGroups(reader, { experts, rank: "max" });
  return { score: "softmax", normalise: false, correctionBias: false, ...groups };
}

/**
 * No key of GGUF tells V2's rule for groups from V3's, so the scores do: V2's are softmax. Without the
 * key they are softmax as well.
 */
function readGgufGating(
  reader: ConfigReader,
  { source, experts }: { source: TensorSource; experts: Experts },
): Gating {
  const id = reader.integer(KEYS.gatingFunction, { min: 1, max: 3, fallback: 1 });
  const score = (["softmax", "sigmoid", "softmaxOfChosen"] as const)[id - 1];
  const biases = [...source.tensors.keys()].some((name) => name.endsWith(".exp_probs_b.bias"));
  return {
    score,
    normalise: reader.boolean(KEYS.normalise, { fallback: false }),
    correctionBias: biases,
    ...readGroups(reader, { experts, rank: rankOf(score) }),
  };
}

function rankOf(score: MixtureConfig["score"]): "max" | "topTwo" {
  return score === "sigmoid" ? "topTwo" : "max";
}

function readGroups(
  reader: ConfigReader,
  { experts, rank }: { experts: Experts; rank: "max" | "topTwo" },
): Pick<MixtureConfig, "groups"> {
  const count = reader.integer(KEYS.groups, { min: 1, max: experts.experts, fallback: 1 });
  const used = reader.integer(KEYS.groupsUsed, { min: 1, max: count, fallback: count });
  if (used === count) return {};
  const groups = { count, used, rank };
  const problem = groupsProblem(experts, groups);
  if (problem !== undefined) throw reader.contradiction(KEYS.groups, { is: count, must: problem });
  return { groups };
}

/** Loads the model, with the groups that the caller states where the file leaves them out. */
async function load(config: DecoderConfig, options: LoadModelOptions): Promise<Model> {
  const { expertGroups, ...rest } = options;
  if (expertGroups === undefined) {
    if (lacksGroups(config, options.source)) options.onWarning?.(WITHOUT_GROUPS);
    return await loadDecoder(config, rest);
  }
  const mixture = config.mixture as MixtureConfig;
  const groups = { ...expertGroups, rank: rankOf(mixture.score) };
  const problem = groupsProblem(mixture, groups);
  if (problem !== undefined) {
    const { count, used } = expertGroups;
    throw new OptionError(
      `cannot load the model: expert groups are ${count}, ${used} of them used, must be ${problem}`,
    );
  }
  return await loadDecoder({ ...config, mixture: { ...mixture, groups } }, rest);
}

const WITHOUT_GROUPS =
  "this file does not say how its experts are grouped, as files of its age do not: routing goes " +
  "without the group limit, and answers differ from the original model's. --expert-groups N,K " +
  "supplies the N groups of which a token uses K (8,4 for DeepSeek-V3 and R1).";

/** Files of before April 2025 have V3's gate and no key for its groups. */
function lacksGroups({ mixture }: DecoderConfig, source: TensorSource): boolean {
  return source.format === "gguf" && hasLegacyLatentUp(source) && mixture?.score === "sigmoid" &&
    !source.metadata.has(`deepseek2.${KEYS.groups.gguf}`);
}

export const deepseek: Architecture<DecoderConfig> = {
  ggufName: "deepseek2",
  huggingFaceNames: ["DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"],
  readConfig,
  load,
};
