/**
 * What can be said against a checkpoint's hyper-parameters without knowing its architecture: each
 * must be a number of the right kind within bounds that no published model comes near, and they must
 * agree with one another and with the shapes of the tensors. Whether they suffice is the model's
 * matter.
 */

import { FormatError } from "../errors.ts";
import { quoted } from "./byte_source.ts";
import type { MetadataValue, TensorSource } from "./tensor_source.ts";

/** What a hyper-parameter may be: a whole number or any finite one, within bounds. */
interface Rule {
  readonly whole: boolean;
  readonly minimum: number;
  readonly maximum: number;
  /** Also allowed as an array with one entry per layer. */
  readonly perLayer?: boolean;
}

const MAX_LAYERS = 4096;
const LAYERS: Rule = { whole: true, minimum: 1, maximum: MAX_LAYERS };
const LAYERS_OR_NONE: Rule = { whole: true, minimum: 0, maximum: MAX_LAYERS };
const WIDTH: Rule = { whole: true, minimum: 1, maximum: 2 ** 20 };
const INNER_WIDTH: Rule = { whole: true, minimum: 0, maximum: 2 ** 24, perLayer: true };
const HEADS: Rule = { whole: true, minimum: 1, maximum: 65_536, perLayer: true };
const HEAD_WIDTH: Rule = { whole: true, minimum: 1, maximum: 65_536 };
const RANK: Rule = { whole: true, minimum: 0, maximum: 2 ** 20 };
const EXPERTS: Rule = { whole: true, minimum: 0, maximum: 65_536 };
const TOKENS: Rule = { whole: true, minimum: 1, maximum: 2 ** 31 - 1 };
const VOCABULARY: Rule = { whole: true, minimum: 1, maximum: 2 ** 24 };
const EPSILON: Rule = { whole: false, minimum: 0, maximum: 1 };
const FREQUENCY_BASE: Rule = { whole: false, minimum: Number.MIN_VALUE, maximum: 1e15 };
const FACTOR: Rule = { whole: false, minimum: 0, maximum: 1e9 };

/** By the key after `{architecture}.` in a GGUF file. */
const GGUF_RULES: Readonly<Record<string, Rule>> = Object.freeze({
  "block_count": LAYERS,
  "context_length": TOKENS,
  "embedding_length": WIDTH,
  "feed_forward_length": INNER_WIDTH,
  "vocab_size": VOCABULARY,
  "attention.head_count": HEADS,
  "attention.head_count_kv": HEADS,
  "attention.key_length": HEAD_WIDTH,
  "attention.value_length": HEAD_WIDTH,
  "attention.key_length_mla": HEAD_WIDTH,
  "attention.value_length_mla": HEAD_WIDTH,
  "attention.kv_lora_rank": RANK,
  "attention.q_lora_rank": RANK,
  "attention.layer_norm_rms_epsilon": EPSILON,
  "attention.layer_norm_epsilon": EPSILON,
  "rope.dimension_count": HEAD_WIDTH,
  "rope.freq_base": FREQUENCY_BASE,
  "rope.scaling.factor": FACTOR,
  "rope.scaling.original_context_length": TOKENS,
  "expert_count": EXPERTS,
  "expert_used_count": EXPERTS,
  "expert_shared_count": EXPERTS,
  "expert_group_count": EXPERTS,
  "expert_group_used_count": EXPERTS,
  "expert_feed_forward_length": INNER_WIDTH,
  "expert_weights_scale": FACTOR,
  "leading_dense_block_count": LAYERS_OR_NONE,
});

/** By the key in config.json. */
const CONFIG_RULES: Readonly<Record<string, Rule>> = Object.freeze({
  num_hidden_layers: LAYERS,
  max_position_embeddings: TOKENS,
  hidden_size: WIDTH,
  intermediate_size: INNER_WIDTH,
  vocab_size: VOCABULARY,
  num_attention_heads: HEADS,
  num_key_value_heads: HEADS,
  head_dim: HEAD_WIDTH,
  qk_rope_head_dim: HEAD_WIDTH,
  qk_nope_head_dim: HEAD_WIDTH,
  v_head_dim: HEAD_WIDTH,
  kv_lora_rank: RANK,
  q_lora_rank: RANK,
  rms_norm_eps: EPSILON,
  rope_theta: FREQUENCY_BASE,
  n_routed_experts: EXPERTS,
  num_experts: EXPERTS,
  num_local_experts: EXPERTS,
  num_experts_per_tok: EXPERTS,
  n_shared_experts: EXPERTS,
  n_group: EXPERTS,
  topk_group: EXPERTS,
  moe_intermediate_size: INNER_WIDTH,
  routed_scaling_factor: FACTOR,
  first_k_dense_replace: LAYERS_OR_NONE,
});

/** Pairs (small, large) of which the first may not exceed the second where both are numbers. */
const GGUF_ORDER = Object.freeze([
  ["attention.head_count_kv", "attention.head_count"],
  ["expert_used_count", "expert_count"],
  ["expert_group_used_count", "expert_group_count"],
  ["leading_dense_block_count", "block_count"],
]);
const CONFIG_ORDER = Object.freeze([
  ["num_key_value_heads", "num_attention_heads"],
  ["num_experts_per_tok", "n_routed_experts"],
  ["num_experts_per_tok", "num_experts"],
  ["num_experts_per_tok", "num_local_experts"],
  ["topk_group", "n_group"],
  ["first_k_dense_replace", "num_hidden_layers"],
]);

/** Throws FormatError for the first hyper-parameter that cannot be right. */
export function checkHyperParameters(source: TensorSource): void {
  const check = new Check(source);
  if (source.format === "gguf") checkGguf(source, check);
  else checkConfig(source, check);
}

/** The architecture's name: `llama`, or `LlamaForCausalLM` in a config.json. */
export function architectureOf(source: TensorSource): string {
  const check = new Check(source);
  if (source.format === "gguf") return check.name("general.architecture");
  const list = source.metadata.get("architectures");
  if (list === undefined || list === null) return check.name("model_type");
  const first = Array.isArray(list) && list.length > 0 ? list[0] : null;
  if (typeof first !== "string" || !NAME.test(first)) {
    throw check.error("architectures", show(first), "a list of names");
  }
  return first;
}

const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;

function checkGguf(source: TensorSource, check: Check): void {
  const prefix = `${architectureOf(source)}.`;
  for (const [key, value] of source.metadata) {
    if (!key.startsWith(prefix)) continue;
    if (typeof value === "number" && !Number.isFinite(value)) {
      throw check.error(key, value, "finite");
    }
    const rule = ruleOf(GGUF_RULES, key.slice(prefix.length));
    if (rule !== undefined) check.rule(key, rule);
  }
  for (const [small, large] of GGUF_ORDER) check.order(prefix + small, prefix + large);
  const embeddings = source.tensors.get("token_embd.weight")?.shape;
  if (embeddings !== undefined) {
    check.equal(`${prefix}embedding_length`, embeddings[1] ?? 1, "the embedding table's width");
    check.equal(`${prefix}vocab_size`, embeddings[0], "the embedding table's rows");
    const tokens = source.metadata.get("tokenizer.ggml.tokens");
    if (isArray(tokens) && tokens.length !== embeddings[0]) {
      throw check.error(
        "tokenizer.ggml.tokens",
        `${tokens.length} long`,
        `${embeddings[0]} long (the embedding table's rows)`,
      );
    }
  }
  check.layers({ key: `${prefix}block_count`, pattern: /^blk\.(\d+)\./, extra: 0 });
}

function checkConfig(source: TensorSource, check: Check): void {
  architectureOf(source);
  for (const [key, value] of source.metadata) {
    const rule = ruleOf(CONFIG_RULES, key);
    if (rule !== undefined && value !== null) check.rule(key, rule);
  }
  for (const [small, large] of CONFIG_ORDER) check.order(small, large);
  const embeddings = source.tensors.get("model.embed_tokens.weight")?.shape;
  if (embeddings !== undefined) {
    check.equal("hidden_size", embeddings[1] ?? 1, "the embedding table's width");
    check.equal("vocab_size", embeddings[0], "the embedding table's rows");
  }
  const next = source.metadata.get("num_nextn_predict_layers");
  check.layers({
    key: "num_hidden_layers",
    pattern: /^model\.layers\.(\d+)\./,
    extra: typeof next === "number" ? next : 0,
  });
}

function ruleOf(rules: Readonly<Record<string, Rule>>, key: string): Rule | undefined {
  return Object.hasOwn(rules, key) ? rules[key] : undefined;
}

/** Checks on one checkpoint's metadata, with its name in the messages. */
class Check {
  readonly #source: TensorSource;

  constructor(source: TensorSource) {
    this.#source = source;
  }

  error(key: string, is: unknown, must: string): FormatError {
    const { name } = this.#source;
    return FormatError.of(`use checkpoint ${quoted(name)}`, quoted(key), is, must);
  }

  name(key: string): string {
    const value = this.#source.metadata.get(key);
    if (typeof value !== "string" || !NAME.test(value)) {
      throw this.error(key, show(value), "a name of letters, digits, dots and dashes");
    }
    return value;
  }

  rule(key: string, rule: Rule): void {
    const value = this.#source.metadata.get(key);
    if (!isArray(value)) return this.#number(key, value, rule);
    if (rule.perLayer !== true || value.length < 1 || value.length > MAX_LAYERS) {
      throw this.error(
        key,
        `an array of ${value.length}`,
        rule.perLayer === true ? `1 to ${MAX_LAYERS} long` : "a number",
      );
    }
    // A layer without attention or feed-forward has a zero there.
    for (const item of value) this.#number(key, item, { ...rule, minimum: 0 });
  }

  #number(key: string, value: unknown, rule: Rule): void {
    const { whole, minimum, maximum } = rule;
    const ok = typeof value === "number" && value >= minimum && value <= maximum &&
      (!whole || Number.isInteger(value));
    if (ok) return;
    const kind = whole ? "a whole number" : "a number";
    throw this.error(key, show(value), `${kind} from ${minimum} to ${maximum}`);
  }

  order(small: string, large: string): void {
    const a = this.#source.metadata.get(small);
    const b = this.#source.metadata.get(large);
    if (typeof a === "number" && typeof b === "number" && a > b) {
      throw this.error(small, a, `at most ${b} (${quoted(large)})`);
    }
  }

  /** Where the key is there, it must equal a tensor's extent. */
  equal(key: string, extent: number, what: string): void {
    const value = this.#source.metadata.get(key);
    if (typeof value === "number" && value !== extent) {
      throw this.error(key, value, `${extent} (${what})`);
    }
  }

  /** No tensor may belong to a layer beyond the stated count. */
  layers(options: { key: string; pattern: RegExp; extra: number }): void {
    const count = this.#source.metadata.get(options.key);
    if (typeof count !== "number") return;
    for (const name of this.#source.tensors.keys()) {
      const layer = options.pattern.exec(name);
      if (layer !== null && Number(layer[1]) >= count + options.extra) {
        throw this.error(options.key, count, `above ${layer[1]}, as tensor ${quoted(name)} needs`);
      }
    }
  }
}

function isArray(
  value: MetadataValue | undefined,
): value is Extract<MetadataValue, { readonly length: number }> & Iterable<MetadataValue> {
  return typeof value === "object" && value !== null && Symbol.iterator in value;
}

function show(value: unknown): string {
  if (value === undefined) return "missing";
  if (typeof value === "string") return quoted(value);
  if (typeof value === "object" && value !== null) return "not a number";
  return String(value);
}
