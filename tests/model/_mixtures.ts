/** Complete small checkpoints of the mixtures, for tests of what a loader does with right and wrong ones. */

import type { MetadataValue } from "../../src/formats/tensor_source.ts";
import type { SourceParts } from "./_source.ts";

type Shapes = Record<string, readonly number[]>;

const HIDDEN = 8;
const VOCAB = 10;
const EXPERTS = 8;
const EXPERT_SIZE = 6;

/** Of each layer of `count`, the shapes under its names. */
function layers(count: number, shapesOf: (layer: number) => Shapes): Shapes {
  return Object.assign({}, ...Array.from({ length: count }, (_, layer) => shapesOf(layer)));
}

/** Of each expert, its shapes. */
function experts(shapesOf: (expert: number) => Shapes): Shapes {
  return layers(EXPERTS, shapesOf);
}

/**
 * DeepSeek-V3 in GGUF: a dense layer and two mixtures of 8 experts in 4 groups, two heads of 4 + 2, latents
 * of 8 and, for queries, 6.
 */
export function ggufDeepseek(): SourceParts {
  return {
    format: "gguf",
    metadata: {
      "general.architecture": "deepseek2",
      "deepseek2.block_count": 3,
      "deepseek2.context_length": 128,
      "deepseek2.embedding_length": HIDDEN,
      "deepseek2.feed_forward_length": 12,
      "deepseek2.leading_dense_block_count": 1,
      "deepseek2.attention.head_count": 2,
      "deepseek2.attention.head_count_kv": 1,
      "deepseek2.attention.layer_norm_rms_epsilon": 1e-6,
      "deepseek2.attention.q_lora_rank": 6,
      "deepseek2.attention.kv_lora_rank": 8,
      "deepseek2.attention.key_length": 10,
      "deepseek2.attention.value_length": 8,
      "deepseek2.attention.key_length_mla": 6,
      "deepseek2.attention.value_length_mla": 4,
      "deepseek2.rope.dimension_count": 2,
      "deepseek2.rope.freq_base": 10000,
      "deepseek2.vocab_size": VOCAB,
      "deepseek2.expert_count": EXPERTS,
      "deepseek2.expert_used_count": 2,
      "deepseek2.expert_shared_count": 1,
      "deepseek2.expert_group_count": 4,
      "deepseek2.expert_group_used_count": 2,
      "deepseek2.expert_gating_func": 2,
      "deepseek2.expert_feed_forward_length": EXPERT_SIZE,
      "deepseek2.expert_weights_scale": 2.5,
      "deepseek2.expert_weights_norm": true,
    },
    shapes: {
      "token_embd.weight": [VOCAB, HIDDEN],
      ...layers(3, (layer) => ({
        [`blk.${layer}.attn_norm.weight`]: [HIDDEN],
        [`blk.${layer}.attn_q_a.weight`]: [6, HIDDEN],
        [`blk.${layer}.attn_q_a_norm.weight`]: [6],
        [`blk.${layer}.attn_q_b.weight`]: [12, 6],
        [`blk.${layer}.attn_kv_a_mqa.weight`]: [10, HIDDEN],
        [`blk.${layer}.attn_kv_a_norm.weight`]: [8],
        [`blk.${layer}.attn_k_b.weight`]: [2, 8, 4],
        [`blk.${layer}.attn_v_b.weight`]: [2, 4, 8],
        [`blk.${layer}.attn_output.weight`]: [HIDDEN, 8],
        [`blk.${layer}.ffn_norm.weight`]: [HIDDEN],
        ...(layer === 0
          ? {
            "blk.0.ffn_gate.weight": [12, HIDDEN],
            "blk.0.ffn_up.weight": [12, HIDDEN],
            "blk.0.ffn_down.weight": [HIDDEN, 12],
          }
          : {
            [`blk.${layer}.ffn_gate_inp.weight`]: [EXPERTS, HIDDEN],
            [`blk.${layer}.exp_probs_b.bias`]: [EXPERTS],
            [`blk.${layer}.ffn_gate_shexp.weight`]: [EXPERT_SIZE, HIDDEN],
            [`blk.${layer}.ffn_up_shexp.weight`]: [EXPERT_SIZE, HIDDEN],
            [`blk.${layer}.ffn_down_shexp.weight`]: [HIDDEN, EXPERT_SIZE],
            ...ggufExperts(layer, EXPERTS),
          }),
      })),
      "output_norm.weight": [HIDDEN],
      "output.weight": [VOCAB, HIDDEN],
    },
  };
}

/** The same file as it was written until April 2025. */
export function legacyGgufDeepseek(): SourceParts {
  const { format, metadata, shapes } = ggufDeepseek();
  const split = /attn_[kv]_b/;
  const kept = Object.entries(shapes).filter(([name]) => !split.test(name));
  const { [`deepseek2.expert_group_count`]: _count, ...rest } = metadata;
  delete rest["deepseek2.expert_group_used_count"];
  delete rest["deepseek2.attention.key_length_mla"];
  delete rest["deepseek2.attention.value_length_mla"];
  return {
    format,
    metadata: {
      ...rest,
      "deepseek2.attention.head_count_kv": 2,
      "deepseek2.attention.key_length": 6,
      "deepseek2.attention.value_length": 4,
    },
    shapes: {
      ...Object.fromEntries(kept),
      ...layers(3, (layer) => ({ [`blk.${layer}.attn_kv_b.weight`]: [16, 8] })),
    },
  };
}

function ggufExperts(layer: number, count: number): Shapes {
  return {
    [`blk.${layer}.ffn_gate_exps.weight`]: [count, EXPERT_SIZE, HIDDEN],
    [`blk.${layer}.ffn_up_exps.weight`]: [count, EXPERT_SIZE, HIDDEN],
    [`blk.${layer}.ffn_down_exps.weight`]: [count, HIDDEN, EXPERT_SIZE],
  };
}

/** DeepSeek-V2 or -V3 of the same sizes as a Hugging Face checkpoint. */
export function huggingFaceDeepseek(version: "V2" | "V3"): SourceParts {
  return {
    format: "safetensors",
    metadata: {
      architectures: [`Deepseek${version}ForCausalLM`],
      num_hidden_layers: 3,
      max_position_embeddings: 128,
      hidden_size: HIDDEN,
      intermediate_size: 12,
      first_k_dense_replace: 1,
      num_attention_heads: 2,
      num_key_value_heads: 2,
      rms_norm_eps: 1e-6,
      q_lora_rank: 6,
      kv_lora_rank: 8,
      qk_nope_head_dim: 4,
      qk_rope_head_dim: 2,
      v_head_dim: 4,
      rope_theta: 10000,
      vocab_size: VOCAB,
      tie_word_embeddings: false,
      hidden_act: "silu",
      n_routed_experts: EXPERTS,
      num_experts_per_tok: 2,
      n_shared_experts: 1,
      n_group: 4,
      topk_group: 2,
      topk_method: version === "V2" ? "group_limited_greedy" : "noaux_tc",
      moe_intermediate_size: EXPERT_SIZE,
      routed_scaling_factor: 2.5,
      norm_topk_prob: true,
    },
    shapes: {
      "model.embed_tokens.weight": [VOCAB, HIDDEN],
      ...layers(3, (layer) => deepseekLayer(`model.layers.${layer}`, { layer, version })),
      "model.norm.weight": [HIDDEN],
      "lm_head.weight": [VOCAB, HIDDEN],
    },
  };
}

function deepseekLayer(
  name: string,
  { layer, version }: { layer: number; version: "V2" | "V3" },
): Shapes {
  const bias = { [`${name}.mlp.gate.e_score_correction_bias`]: [EXPERTS] };
  return {
    [`${name}.input_layernorm.weight`]: [HIDDEN],
    [`${name}.self_attn.q_a_proj.weight`]: [6, HIDDEN],
    [`${name}.self_attn.q_a_layernorm.weight`]: [6],
    [`${name}.self_attn.q_b_proj.weight`]: [12, 6],
    [`${name}.self_attn.kv_a_proj_with_mqa.weight`]: [10, HIDDEN],
    [`${name}.self_attn.kv_a_layernorm.weight`]: [8],
    [`${name}.self_attn.kv_b_proj.weight`]: [16, 8],
    [`${name}.self_attn.o_proj.weight`]: [HIDDEN, 8],
    [`${name}.post_attention_layernorm.weight`]: [HIDDEN],
    ...(layer === 0 ? gatedMlp(`${name}.mlp`, 12) : {
      [`${name}.mlp.gate.weight`]: [EXPERTS, HIDDEN],
      ...(version === "V3" && bias),
      ...gatedMlp(`${name}.mlp.shared_experts`, EXPERT_SIZE),
      ...experts((expert) => gatedMlp(`${name}.mlp.experts.${expert}`, EXPERT_SIZE)),
    }),
  };
}

function gatedMlp(name: string, width: number): Shapes {
  return {
    [`${name}.gate_proj.weight`]: [width, HIDDEN],
    [`${name}.up_proj.weight`]: [width, HIDDEN],
    [`${name}.down_proj.weight`]: [HIDDEN, width],
  };
}

export type GroupedMixture = "Qwen3Moe" | "Olmoe" | "Mixtral" | "GraniteMoe" | "GptOss";

/** The mixtures with grouped attention: two heads of four, one of keys and values (OLMoE: two). */
export function huggingFaceMixture(architecture: GroupedMixture): SourceParts {
  const kvHeads = architecture === "Olmoe" ? 2 : 1;
  return {
    format: "safetensors",
    metadata: {
      architectures: [`${architecture}ForCausalLM`],
      num_hidden_layers: 2,
      max_position_embeddings: 128,
      hidden_size: HIDDEN,
      num_attention_heads: 2,
      num_key_value_heads: kvHeads,
      rms_norm_eps: 1e-6,
      rope_theta: 10000,
      vocab_size: VOCAB,
      tie_word_embeddings: false,
      hidden_act: "silu",
      num_experts_per_tok: 2,
      ...ownFields(architecture),
    },
    shapes: {
      "model.embed_tokens.weight": [VOCAB, HIDDEN],
      ...layers(2, (layer) => ({
        ...groupedAttention(`model.layers.${layer}`, { architecture, kvHeads }),
        ...mixtureShapes(`model.layers.${layer}`, architecture),
      })),
      "model.norm.weight": [HIDDEN],
      "lm_head.weight": [VOCAB, HIDDEN],
    },
  };
}

function ownFields(architecture: GroupedMixture): Record<string, MetadataValue> {
  switch (architecture) {
    case "Qwen3Moe":
      return { num_experts: EXPERTS, moe_intermediate_size: EXPERT_SIZE, intermediate_size: 12 };
    case "Olmoe":
      return { num_experts: EXPERTS, intermediate_size: EXPERT_SIZE, clip_qkv: null };
    case "GptOss":
      return { num_local_experts: EXPERTS, intermediate_size: EXPERT_SIZE, sliding_window: 4 };
    default:
      return { num_local_experts: EXPERTS, intermediate_size: EXPERT_SIZE };
  }
}

function groupedAttention(
  name: string,
  { architecture, kvHeads }: { architecture: GroupedMixture; kvHeads: number },
): Shapes {
  const attention = `${name}.self_attn`;
  const kvWidth = kvHeads * 4;
  const biases = {
    [`${attention}.q_proj.bias`]: [8],
    [`${attention}.k_proj.bias`]: [kvWidth],
    [`${attention}.v_proj.bias`]: [kvWidth],
    [`${attention}.o_proj.bias`]: [HIDDEN],
    [`${attention}.sinks`]: [2],
  };
  const norms = (query: number, key: number) => ({
    [`${attention}.q_norm.weight`]: [query],
    [`${attention}.k_norm.weight`]: [key],
  });
  return {
    [`${name}.input_layernorm.weight`]: [HIDDEN],
    [`${attention}.q_proj.weight`]: [8, HIDDEN],
    [`${attention}.k_proj.weight`]: [kvWidth, HIDDEN],
    [`${attention}.v_proj.weight`]: [kvWidth, HIDDEN],
    [`${attention}.o_proj.weight`]: [HIDDEN, 8],
    ...(architecture === "GptOss" && biases),
    ...(architecture === "Qwen3Moe" && norms(4, 4)),
    ...(architecture === "Olmoe" && norms(8, kvWidth)),
    [`${name}.post_attention_layernorm.weight`]: [HIDDEN],
  };
}

function mixtureShapes(name: string, architecture: GroupedMixture): Shapes {
  const sparse = `${name}.block_sparse_moe`;
  switch (architecture) {
    case "Mixtral":
      return {
        [`${sparse}.gate.weight`]: [EXPERTS, HIDDEN],
        ...experts((expert) => ({
          [`${sparse}.experts.${expert}.w1.weight`]: [EXPERT_SIZE, HIDDEN],
          [`${sparse}.experts.${expert}.w2.weight`]: [HIDDEN, EXPERT_SIZE],
          [`${sparse}.experts.${expert}.w3.weight`]: [EXPERT_SIZE, HIDDEN],
        })),
      };
    case "GraniteMoe":
      return {
        [`${sparse}.router.layer.weight`]: [EXPERTS, HIDDEN],
        [`${sparse}.input_linear.weight`]: [EXPERTS, 2 * EXPERT_SIZE, HIDDEN],
        [`${sparse}.output_linear.weight`]: [EXPERTS, HIDDEN, EXPERT_SIZE],
      };
    case "GptOss":
      return {
        [`${name}.mlp.router.weight`]: [EXPERTS, HIDDEN],
        [`${name}.mlp.router.bias`]: [EXPERTS],
        [`${name}.mlp.experts.gate_up_proj`]: [EXPERTS, HIDDEN, 2 * EXPERT_SIZE],
        [`${name}.mlp.experts.gate_up_proj_bias`]: [EXPERTS, 2 * EXPERT_SIZE],
        [`${name}.mlp.experts.down_proj`]: [EXPERTS, EXPERT_SIZE, HIDDEN],
        [`${name}.mlp.experts.down_proj_bias`]: [EXPERTS, HIDDEN],
      };
    default:
      return {
        [`${name}.mlp.gate.weight`]: [EXPERTS, HIDDEN],
        ...experts((expert) => gatedMlp(`${name}.mlp.experts.${expert}`, EXPERT_SIZE)),
      };
  }
}

/** Every mixture above. */
export function mixtures(): SourceParts[] {
  return [
    ggufDeepseek(),
    legacyGgufDeepseek(),
    huggingFaceDeepseek("V2"),
    huggingFaceDeepseek("V3"),
    ...(["Qwen3Moe", "Olmoe", "Mixtral", "GraniteMoe", "GptOss"] as const).map(huggingFaceMixture),
  ];
}
