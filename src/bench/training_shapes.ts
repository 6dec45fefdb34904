/** Models and packed tokens for measurements of training: nothing is read, and nothing is learnt. */

import type { MetadataValue } from "../formats/tensor_source.ts";
import { Xoshiro128 } from "../sampling/random.ts";
import { nextTokens, type TrainingSequence } from "../training/batch.ts";
import type { Trainer } from "../training/trainer.ts";

type Config = Readonly<Record<string, MetadataValue>>;

interface MixtureShape {
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  /** Of a head that are not rotated, that are, and of its values. */
  readonly head: readonly [nope: number, rope: number, value: number];
  readonly latent: number;
  readonly experts: number;
  readonly topK: number;
  /** Of each expert, and of the first layer, which has none. */
  readonly intermediate: number;
  readonly dense: number;
}

/** A config.json of a mixture with latent attention, a sigmoid gate and one shared expert. */
function mixture(shape: MixtureShape): Config {
  const [nope, rope, value] = shape.head;
  return {
    architectures: ["DeepseekV3ForCausalLM"],
    model_type: "deepseek_v3",
    hidden_act: "silu",
    hidden_size: shape.hidden,
    intermediate_size: shape.dense,
    moe_intermediate_size: shape.intermediate,
    first_k_dense_replace: 1,
    n_routed_experts: shape.experts,
    n_shared_experts: 1,
    num_experts_per_tok: shape.topK,
    n_group: 1,
    topk_group: 1,
    norm_topk_prob: true,
    routed_scaling_factor: 1,
    scoring_func: "sigmoid",
    topk_method: "noaux_tc",
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.heads,
    num_hidden_layers: shape.layers,
    q_lora_rank: null,
    kv_lora_rank: shape.latent,
    qk_nope_head_dim: nope,
    qk_rope_head_dim: rope,
    v_head_dim: value,
    max_position_embeddings: 1024,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    tie_word_embeddings: false,
  };
}

/** A config.json of a dense Llama with as many heads of keys as of queries. */
export function llamaConfig(
  shape: { hidden: number; layers: number; heads: number; intermediate: number },
): Config {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_act: "silu",
    hidden_size: shape.hidden,
    intermediate_size: shape.intermediate,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.heads,
    head_dim: shape.hidden / shape.heads,
    num_hidden_layers: shape.layers,
    max_position_embeddings: 1024,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    tie_word_embeddings: false,
  };
}

/** The model that peers train as well. */
export const DENSE = Object.freeze({ hidden: 128, layers: 4, heads: 4, intermediate: 384 });

/** Models: mixtures by their parameters that a token takes part in, and the one peers train as well. */
export const TRAINING_SHAPES = Object.freeze({
  "100k": mixture({
    ...{ hidden: 64, layers: 3, heads: 4, head: [16, 16, 16], latent: 32 },
    ...{ experts: 8, topK: 2, intermediate: 32, dense: 128 },
  }),
  "1m": mixture({
    ...{ hidden: 128, layers: 4, heads: 4, head: [32, 32, 32], latent: 64 },
    ...{ experts: 16, topK: 2, intermediate: 128, dense: 384 },
  }),
  "10m": mixture({
    ...{ hidden: 384, layers: 8, heads: 8, head: [32, 32, 32], latent: 128 },
    ...{ experts: 32, topK: 4, intermediate: 160, dense: 960 },
  }),
  "dense": llamaConfig(DENSE),
});

export type TrainingShape = keyof typeof TRAINING_SHAPES;

/**
 * Samples that fill `tokens` rows, the same each time: of lengths around `length`, or of exactly that where
 * they are `even`. The last one has what is left.
 */
export function madeUpSamples(
  { tokens, length, vocabulary, even = false }: {
    tokens: number;
    length: number;
    vocabulary: number;
    even?: boolean;
  },
): TrainingSequence[] {
  const random = new Xoshiro128(1);
  const below = (count: number) => random.nextUint32() % count;
  const samples: TrainingSequence[] = [];
  for (let left = tokens; left > 1;) {
    const drawn = even ? length : Math.max(2, length - (length >> 1) + below(length));
    const count = Math.min(left, drawn);
    const ids = Int32Array.from({ length: count + 1 }, () => below(vocabulary));
    samples.push(nextTokens(ids, new Float32Array(count + 1).fill(1 / tokens)));
    left -= count;
  }
  return samples;
}

/** Numbers of all tensors that a trainer changes. */
export function parametersOf({ parameters }: Pick<Trainer, "parameters">): number {
  return parameters.trained.reduce(
    (sum, { names, rows, cols }) => sum + names.length * rows * cols,
    0,
  );
}
