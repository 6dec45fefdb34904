/**
 * The outline that a config.json implies, for models whose weights are elsewhere. Each family's
 * matrices follow its reference implementation; tests hold the counts against checkpoints' tensors.
 */

import { FormatError, UnsupportedOpError } from "../errors.ts";
import type { MetadataValue } from "../formats/tensor_source.ts";
import { ConfigSection } from "../model/config_reader.ts";
import type { CacheOutline, Matrices, ModelOutline, Part, PartKind } from "./outline.ts";

/** The fields of a config.json. */
export type Config = ReadonlyMap<string, MetadataValue>;

interface Weights {
  readonly matrices: readonly Matrices[];
  readonly vectors: number;
}

/** How a family of models names and shapes what the others have otherwise. */
interface Family {
  readonly attention: (fields: Fields) => Weights;
  /** Null for dense families. */
  readonly moe: ((fields: Fields) => MoeFields | null) | null;
}

interface MoeFields {
  readonly experts: number;
  readonly topK: number;
  readonly intermediate: number;
  /** Width of the shared expert or experts, side by side; 0 for none. */
  readonly shared: number;
  /** One value an expert beside the gate's matrix. */
  readonly gateBias: boolean;
  /** Experts' matrices have biases. */
  readonly expertBias: boolean;
  readonly isRouted: (layer: number) => boolean;
}

const MODEL_TYPES: Readonly<Record<string, Family>> = Object.freeze<Record<string, Family>>({
  llama: { attention: headAttention, moe: null },
  qwen2: { attention: headAttention, moe: null },
  qwen3: { attention: headAttention, moe: null },
  qwen3_moe: { attention: headAttention, moe: qwen3Moe },
  olmoe: { attention: headAttention, moe: allRouted("num_experts") },
  mixtral: { attention: headAttention, moe: allRouted("num_local_experts") },
  granitemoe: { attention: headAttention, moe: allRouted("num_local_experts") },
  gpt_oss: { attention: headAttention, moe: allRouted("num_local_experts") },
  deepseek_v2: { attention: latentAttention, moe: deepseekMoe },
  deepseek_v3: { attention: latentAttention, moe: deepseekMoe },
});

/** Model types that can be outlined. */
export const OUTLINED_TYPES: readonly string[] = Object.freeze(Object.keys(MODEL_TYPES));

const MOST = 2 ** 24;

/**
 * Derives the outline. Throws FormatError where a field is missing or cannot be right,
 * UnsupportedOpError for a `model_type` that is not known here.
 */
export function outlineFromConfig(config: Config, options: { name: string }): ModelOutline {
  const fields = new Fields(config);
  const family = MODEL_TYPES[fields.type];
  if (family === undefined) {
    throw new UnsupportedOpError(
      `cannot plan "${options.name}": its model_type is ${JSON.stringify(fields.type)}, ` +
        `must be one of ${OUTLINED_TYPES.join(", ")}`,
    );
  }
  const moe = family.moe?.(fields) ?? null;
  const layers = fields.whole("num_hidden_layers", { max: 4096 });
  const mtpLayers = fields.whole("num_nextn_predict_layers", { min: 0, max: 64, fallback: 0 });
  const parts: Part[] = [];
  const { hidden, vocab } = fields;
  const add = (kind: PartKind, layer: number | null, weights: Weights) =>
    parts.push({ kind, layer, mtp: layer !== null && layer >= layers, ...weights });
  add("embedding", null, matrices([vocab, hidden]));
  for (let layer = 0; layer < layers + mtpLayers; layer++) {
    add("attention", layer, family.attention(fields));
    add("norms", layer, { matrices: [], vectors: 2 * hidden });
    if (layer >= layers) addNextToken(add, { layer, hidden, vocab });
    if (moe?.isRouted(layer)) addRouted(add, { layer, moe, hidden });
    else add("dense feed-forward", layer, feedForward(fields.intermediate, hidden));
  }
  add("norms", null, { matrices: [], vectors: hidden });
  const tied = fields.flag("tie_word_embeddings", false);
  if (!tied) add("head", null, matrices([vocab, hidden]));
  return {
    name: options.name,
    architecture: fields.type,
    layers,
    hiddenSize: hidden,
    vocabSize: vocab,
    contextLength: fields.whole("max_position_embeddings", { max: 2 ** 31 - 1, fallback: 2048 }),
    experts: moe?.experts ?? 0,
    topK: moe?.topK ?? 0,
    tied,
    cache: cacheOf(fields),
    parts,
    ...(fields.storedAs !== undefined && { storedAs: fields.storedAs }),
  };
}

/** The numbers of a token in one layer's cache, from the same fields. */
export function cacheOf(fields: Fields): CacheOutline {
  if (fields.has("kv_lora_rank")) {
    const rope = fields.whole("qk_rope_head_dim");
    const nope = fields.whole("qk_nope_head_dim");
    const value = fields.whole("v_head_dim");
    return {
      latent: true,
      width: fields.whole("kv_lora_rank") + rope,
      plainWidth: fields.heads * (nope + rope + value),
    };
  }
  const { heads, kvHeads, headDim } = fields;
  return { latent: false, width: 2 * kvHeads * headDim, plainWidth: 2 * heads * headDim };
}

/** Multi-head latent attention (DeepSeek-V2, section 2.1); without `q_lora_rank` queries are projected at once. */
function latentAttention(fields: Fields): Weights {
  const { hidden, heads } = fields;
  const nope = fields.whole("qk_nope_head_dim");
  const rope = fields.whole("qk_rope_head_dim");
  const value = fields.whole("v_head_dim");
  const latent = fields.whole("kv_lora_rank");
  const queryRank = fields.whole("q_lora_rank", { min: 0, fallback: 0 });
  const queries: Weights = queryRank === 0
    ? matrices([heads * (nope + rope), hidden])
    : matrices([queryRank, hidden], [heads * (nope + rope), queryRank]);
  const rest = matrices(
    [latent + rope, hidden],
    [heads * (nope + value), latent],
    [hidden, heads * value],
  );
  const biases = fields.flag("attention_bias", false) ? queryRank + latent + rope + hidden : 0;
  return {
    matrices: [...queries.matrices, ...rest.matrices],
    vectors: queryRank + latent + biases,
  };
}

/** Attention with keys and values of `kvHeads` heads, and what families add to it. */
function headAttention(fields: Fields): Weights {
  const { hidden, heads, kvHeads, headDim, type } = fields;
  const [q, kv] = [heads * headDim, kvHeads * headDim];
  let vectors = 0;
  if (type === "qwen2") vectors += q + 2 * kv;
  else if (fields.flag("attention_bias", type === "gpt_oss")) vectors += q + 2 * kv + hidden;
  if (type === "qwen3" || type === "qwen3_moe") vectors += 2 * headDim;
  if (type === "olmoe") vectors += q + kv;
  // A sink a head.
  if (type === "gpt_oss") vectors += heads;
  return { ...matrices([q, hidden], [kv, hidden], [kv, hidden], [hidden, q]), vectors };
}

function deepseekMoe(fields: Fields): MoeFields | null {
  if (!fields.has("n_routed_experts")) return null;
  const intermediate = fields.whole("moe_intermediate_size");
  const first = fields.whole("first_k_dense_replace", { min: 0, fallback: 0 });
  const every = fields.whole("moe_layer_freq", { fallback: 1 });
  return {
    experts: fields.whole("n_routed_experts"),
    topK: fields.whole("num_experts_per_tok"),
    intermediate,
    shared: intermediate * fields.whole("n_shared_experts", { min: 0, fallback: 0 }),
    // V3 corrects the choice by a bias an expert (section 2.1.2).
    gateBias: fields.type === "deepseek_v3",
    expertBias: false,
    isRouted: (layer) => layer >= first && layer % every === 0,
  };
}

function qwen3Moe(fields: Fields): MoeFields {
  const every = fields.whole("decoder_sparse_step", { fallback: 1 });
  const dense = fields.list("mlp_only_layers");
  return {
    experts: fields.whole("num_experts"),
    topK: fields.whole("num_experts_per_tok"),
    intermediate: fields.whole("moe_intermediate_size"),
    shared: 0,
    gateBias: false,
    expertBias: false,
    isRouted: (layer) => !dense.includes(layer) && (layer + 1) % every === 0,
  };
}

/** Families without dense layers, whose `intermediate_size` is an expert's. */
function allRouted(expertsField: string): (fields: Fields) => MoeFields {
  return (fields) => ({
    experts: fields.whole(expertsField),
    topK: fields.whole("num_experts_per_tok"),
    intermediate: fields.intermediate,
    shared: 0,
    gateBias: fields.type === "gpt_oss",
    expertBias: fields.type === "gpt_oss",
    isRouted: () => true,
  });
}

function addRouted(
  add: (kind: PartKind, layer: number, weights: Weights) => void,
  options: { layer: number; moe: MoeFields; hidden: number },
): void {
  const { layer, moe, hidden } = options;
  const { experts, intermediate, shared } = moe;
  add("gate", layer, {
    ...matrices([experts, hidden]),
    vectors: moe.gateBias ? experts : 0,
  });
  add("routed experts", layer, {
    matrices: feedForward(intermediate, hidden).matrices.map((matrix) => ({
      ...matrix,
      count: experts,
    })),
    vectors: moe.expertBias ? experts * (2 * intermediate + hidden) : 0,
  });
  if (shared > 0) add("shared experts", layer, feedForward(shared, hidden));
}

/**
 * What a layer of the multi-token prediction module has beside a decoder layer's: norms of the
 * embedding, the hidden state and the output, a projection of the first two, and in published files
 * copies of the embedding and the head.
 */
function addNextToken(
  add: (kind: PartKind, layer: number, weights: Weights) => void,
  options: { layer: number; hidden: number; vocab: number },
): void {
  const { layer, hidden, vocab } = options;
  add("norms", layer, { matrices: [], vectors: 3 * hidden });
  add("next-token projection", layer, matrices([hidden, 2 * hidden]));
  add("embedding", layer, matrices([vocab, hidden]));
  add("head", layer, matrices([vocab, hidden]));
}

/** Gate, up and down. */
function feedForward(intermediate: number, hidden: number): Weights {
  return matrices([intermediate, hidden], [intermediate, hidden], [hidden, intermediate]);
}

function matrices(...extents: readonly (readonly [rows: number, cols: number])[]): Weights {
  return { matrices: extents.map(([rows, cols]) => ({ rows, cols, count: 1 })), vectors: 0 };
}

/** The fields that most families share, and access to the others. */
export class Fields {
  readonly #section: ConfigSection;
  readonly #config: Config;

  constructor(config: Config) {
    this.#config = config;
    this.#section = new ConfigSection(config);
  }

  get type(): string {
    return this.#section.text("model_type", { fallback: "" });
  }

  get hidden(): number {
    return this.whole("hidden_size");
  }

  get vocab(): number {
    return this.whole("vocab_size");
  }

  get intermediate(): number {
    return this.whole("intermediate_size");
  }

  get heads(): number {
    return this.whole("num_attention_heads");
  }

  get kvHeads(): number {
    return this.whole("num_key_value_heads", { fallback: this.heads });
  }

  get headDim(): number {
    return this.whole("head_dim", { fallback: Math.floor(this.hidden / this.heads) });
  }

  get storedAs(): string | undefined {
    const section = this.#section.section("quantization_config");
    return section?.text("quant_method", { fallback: "" }) || undefined;
  }

  has(name: string): boolean {
    return this.#section.has(name);
  }

  whole(name: string, options: { min?: number; max?: number; fallback?: number } = {}): number {
    return this.#section.integer(name, { min: 1, max: MOST, ...options });
  }

  flag(name: string, fallback: boolean): boolean {
    return this.#section.boolean(name, { fallback });
  }

  /** A list of whole numbers; empty where absent. */
  list(name: string): readonly number[] {
    const value = this.#config.get(name) ?? [];
    if (Array.isArray(value) && value.every((item) => Number.isInteger(item))) return value;
    throw FormatError.of(
      "read the model's configuration",
      `"${name}"`,
      "something else",
      "a list of whole numbers",
    );
  }
}
