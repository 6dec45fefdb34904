/** What each weight of a transformer is called in the two formats. `{}` stands for the layer. */

import type { TensorSource } from "../formats/tensor_source.ts";

const NAMES = {
  tokenEmbedding: ["token_embd.weight", "model.embed_tokens.weight"],
  outputNorm: ["output_norm.weight", "model.norm.weight"],
  output: ["output.weight", "lm_head.weight"],
  attentionNorm: ["blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"],
  query: ["blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight"],
  queryBias: ["blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias"],
  queryNorm: ["blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"],
  key: ["blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight"],
  keyBias: ["blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias"],
  keyNorm: ["blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"],
  value: ["blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight"],
  valueBias: ["blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias"],
  attentionOutput: ["blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight"],
  attentionOutputBias: ["blk.{}.attn_output.bias", "model.layers.{}.self_attn.o_proj.bias"],
  mlpNorm: ["blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight"],
  gate: ["blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight"],
  up: ["blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight"],
  down: ["blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight"],
} as const satisfies Record<string, readonly [gguf: string, huggingFace: string]>;

/** What a weight is for. */
export type WeightRole = keyof typeof NAMES;

/** The name of a weight in a file of this format. */
export function tensorName(
  role: WeightRole,
  options: { format: TensorSource["format"]; layer?: number },
): string {
  const name = NAMES[role][options.format === "gguf" ? 0 : 1];
  return options.layer === undefined ? name : name.replace("{}", String(options.layer));
}

/** GGUF's divisors of the rotary frequencies (Llama 3's scaling), one per pair. */
export const ROPE_FACTORS_NAME = "rope_freqs.weight";

/** Whether a tensor that a model has no use for is known to repeat what the config says. */
export function isHarmlessExtra(name: string): boolean {
  return name === ROPE_FACTORS_NAME || name.endsWith(".rotary_emb.inv_freq");
}
