/** What each weight of a transformer is called in the two formats. `{}` stands for the layer, `{e}` for the expert. */

import type { TensorSource } from "../formats/tensor_source.ts";

/** A weight's name in a GGUF file and in a Hugging Face checkpoint; null where one has no such weight. */
type FormatNames = readonly [gguf: string | null, huggingFace: string | null];

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
  sinks: ["blk.{}.attn_sinks.weight", "model.layers.{}.self_attn.sinks"],
  // Multi-head latent attention: projections down to the latents, and up from them.
  queryDown: ["blk.{}.attn_q_a.weight", "model.layers.{}.self_attn.q_a_proj.weight"],
  queryDownNorm: ["blk.{}.attn_q_a_norm.weight", "model.layers.{}.self_attn.q_a_layernorm.weight"],
  queryUp: ["blk.{}.attn_q_b.weight", "model.layers.{}.self_attn.q_b_proj.weight"],
  latentDown: [
    "blk.{}.attn_kv_a_mqa.weight",
    "model.layers.{}.self_attn.kv_a_proj_with_mqa.weight",
  ],
  latentNorm: ["blk.{}.attn_kv_a_norm.weight", "model.layers.{}.self_attn.kv_a_layernorm.weight"],
  latentUp: ["blk.{}.attn_kv_b.weight", "model.layers.{}.self_attn.kv_b_proj.weight"],
  latentKey: ["blk.{}.attn_k_b.weight", null],
  latentValue: ["blk.{}.attn_v_b.weight", null],
  mlpNorm: ["blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight"],
  gate: ["blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight"],
  up: ["blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight"],
  down: ["blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight"],
  // Mixture of experts: what chooses, the routed experts, the one for every token.
  moeGate: ["blk.{}.ffn_gate_inp.weight", "model.layers.{}.mlp.gate.weight"],
  moeGateBias: ["blk.{}.ffn_gate_inp.bias", "model.layers.{}.mlp.gate.bias"],
  correctionBias: [
    "blk.{}.exp_probs_b.bias",
    "model.layers.{}.mlp.gate.e_score_correction_bias",
  ],
  expertsGate: [
    "blk.{}.ffn_gate_exps.weight",
    "model.layers.{}.mlp.experts.{e}.gate_proj.weight",
  ],
  expertsUp: ["blk.{}.ffn_up_exps.weight", "model.layers.{}.mlp.experts.{e}.up_proj.weight"],
  expertsDown: ["blk.{}.ffn_down_exps.weight", "model.layers.{}.mlp.experts.{e}.down_proj.weight"],
  expertsGateBias: ["blk.{}.ffn_gate_exps.bias", null],
  expertsUpBias: ["blk.{}.ffn_up_exps.bias", null],
  expertsDownBias: ["blk.{}.ffn_down_exps.bias", null],
  // Checkpoints that keep gate and up projections of all experts in one tensor.
  expertsGateUp: [null, "model.layers.{}.mlp.experts.gate_up_proj"],
  expertsGateUpScales: [null, "model.layers.{}.mlp.experts.gate_up_proj_scales"],
  expertsGateUpBias: [null, "model.layers.{}.mlp.experts.gate_up_proj_bias"],
  expertsDownScales: [null, "model.layers.{}.mlp.experts.down_proj_scales"],
  sharedGate: [
    "blk.{}.ffn_gate_shexp.weight",
    "model.layers.{}.mlp.shared_experts.gate_proj.weight",
  ],
  sharedUp: ["blk.{}.ffn_up_shexp.weight", "model.layers.{}.mlp.shared_experts.up_proj.weight"],
  sharedDown: [
    "blk.{}.ffn_down_shexp.weight",
    "model.layers.{}.mlp.shared_experts.down_proj.weight",
  ],
} as const satisfies Record<string, FormatNames>;

/** What a weight is for. */
export type WeightRole = keyof typeof NAMES;

/** Names that a family gives to some weights in place of the usual ones. */
export type NameOverrides = Readonly<Partial<Record<WeightRole, FormatNames>>>;

/** Which weight of those with one role. */
export interface WeightPlace {
  /** Undefined for weights outside the layers. */
  readonly layer?: number;
  /** For checkpoints that keep each expert in tensors of its own. */
  readonly expert?: number;
}

/** The name of a weight in a file of this format. */
export function tensorName(
  role: WeightRole,
  options: WeightPlace & { format: TensorSource["format"]; names?: NameOverrides },
): string {
  const { format, layer, expert, names } = options;
  const name = (names?.[role] ?? NAMES[role])[format === "gguf" ? 0 : 1];
  if (name === null) throw new Error(`${format} files have no weight ${role}`);
  // GGUF files state the stack's name; of experts in tensors of their own, the number is in its place.
  const own = expert === undefined ? name : name.replace("_exps.", ".{e}.");
  return own.replace("{}", String(layer)).replace("{e}", String(expert));
}

/** The layer that a tensor belongs to by its name; undefined for those outside the layers. */
export function layerOf(name: string, format: TensorSource["format"]): number | undefined {
  const match = (format === "gguf" ? /^blk\.(\d+)\./ : /^model\.layers\.(\d+)\./).exec(name);
  return match === null ? undefined : Number(match[1]);
}

/** GGUF's divisors of the rotary frequencies (Llama 3's scaling), one per pair. */
export const ROPE_FACTORS_NAME = "rope_freqs.weight";

/** Whether a tensor that a model has no use for is known to repeat what the config says. */
export function isHarmlessExtra(name: string): boolean {
  return name === ROPE_FACTORS_NAME || name.endsWith(".rotary_emb.inv_freq");
}
