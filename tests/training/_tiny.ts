/** Small configurations to train, and sequences to train them on. */

import type { Model } from "../../src/model/types.ts";
import { loadModel } from "../../src/model/registry.ts";
import { nextTokens, type TrainingSequence } from "../../src/training/batch.ts";
import { initialWeights } from "../../src/training/initial_weights.ts";
import type { TapeBackend } from "../../src/training/tape/mod.ts";
import { generator } from "../backend/_random.ts";

const COMMON = {
  hidden_act: "silu",
  max_position_embeddings: 128,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  vocab_size: 29,
} as const;

/** A dense model: Qwen2, with biases and shared keys. */
export const DENSE = {
  ...COMMON,
  architectures: ["Qwen2ForCausalLM"],
  hidden_size: 16,
  intermediate_size: 24,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  num_hidden_layers: 3,
  tie_word_embeddings: true,
} as const;

/** A mixture with latent attention: DeepSeek-V3, one dense layer first. */
export const MIXTURE = {
  ...COMMON,
  architectures: ["DeepseekV3ForCausalLM"],
  hidden_size: 24,
  intermediate_size: 40,
  moe_intermediate_size: 16,
  first_k_dense_replace: 1,
  n_routed_experts: 6,
  n_shared_experts: 1,
  num_experts_per_tok: 2,
  n_group: 1,
  topk_group: 1,
  norm_topk_prob: true,
  routed_scaling_factor: 1.5,
  num_attention_heads: 2,
  num_key_value_heads: 2,
  num_hidden_layers: 3,
  q_lora_rank: 16,
  kv_lora_rank: 16,
  qk_nope_head_dim: 8,
  qk_rope_head_dim: 8,
  v_head_dim: 8,
  tie_word_embeddings: false,
} as const;

export async function tinyModel(
  config: typeof DENSE | typeof MIXTURE | Readonly<Record<string, unknown>>,
  options: { tape: TapeBackend; maxRows: number; deviation?: number },
): Promise<Model> {
  const { tape, maxRows, deviation = 0.15 } = options;
  // deno-lint-ignore no-explicit-any -- a JSON document
  const source = initialWeights(config as any, { seed: 5, deviation });
  return await loadModel({ source, backend: tape, maxRows, maxLogitRows: maxRows });
}

/** Random sequences whose tokens all share the loss alike. */
export function randomSequences(
  lengths: readonly number[],
  { seed, vocab = COMMON.vocab_size }: { seed: number; vocab?: number },
): TrainingSequence[] {
  const random = generator(seed);
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  return lengths.map((length) => {
    const ids = Array.from({ length: length + 1 }, () => Math.floor(random() * vocab));
    return nextTokens(ids, new Array(length + 1).fill(1 / tokens));
  });
}
