/**
 * Whole models of well-known shapes with made-up weights, for measurements where no checkpoint is at
 * hand: GGUF files that exist in memory only. Matrices repeat a pattern of random blocks of a fitting
 * size, so that activations stay finite and gates spread their choices; norms are ones.
 */

import type { MetadataValue, TensorInfo, TensorSource } from "../formats/tensor_source.ts";
import { rowBytes, TENSOR_TYPES, type TensorType } from "../quant/types.ts";

/** Types that matrices can be made of. */
export const MADE_UP_TYPES = ["Q8_0", "Q4_K"] as const;

export type MadeUpType = typeof MADE_UP_TYPES[number];

interface Shape {
  readonly metadata: Readonly<Record<string, MetadataValue>>;
  readonly tensors: readonly (readonly [name: string, shape: readonly number[]])[];
}

/** R1-Distill-Qwen-1.5B: Qwen2 with 28 layers and an output matrix of its own. */
function qwen(): Shape {
  const [layers, hidden, heads, kvHeads, dim, inner, vocab] = [28, 1536, 12, 2, 128, 8960, 151936];
  const prefixed = {
    block_count: layers,
    embedding_length: hidden,
    feed_forward_length: inner,
    context_length: 32768,
    vocab_size: vocab,
    "attention.head_count": heads,
    "attention.head_count_kv": kvHeads,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 10000,
  };
  const layer = (i: number) =>
    [
      [`blk.${i}.attn_norm.weight`, [hidden]],
      [`blk.${i}.attn_q.weight`, [heads * dim, hidden]],
      [`blk.${i}.attn_q.bias`, [heads * dim]],
      [`blk.${i}.attn_k.weight`, [kvHeads * dim, hidden]],
      [`blk.${i}.attn_k.bias`, [kvHeads * dim]],
      [`blk.${i}.attn_v.weight`, [kvHeads * dim, hidden]],
      [`blk.${i}.attn_v.bias`, [kvHeads * dim]],
      [`blk.${i}.attn_output.weight`, [hidden, heads * dim]],
      [`blk.${i}.ffn_norm.weight`, [hidden]],
      [`blk.${i}.ffn_gate.weight`, [inner, hidden]],
      [`blk.${i}.ffn_up.weight`, [inner, hidden]],
      [`blk.${i}.ffn_down.weight`, [hidden, inner]],
    ] as const;
  return {
    metadata: withPrefix("qwen2", prefixed),
    tensors: [
      ["token_embd.weight", [vocab, hidden]],
      ...Array.from({ length: layers }, (_, i) => layer(i)).flat(),
      ["output_norm.weight", [hidden]],
      ["output.weight", [vocab, hidden]],
    ],
  };
}

/** DeepSeek-V2-Lite: 15.7 B parameters, 2.4 B active; latent attention, 64 routed experts of which 6. */
function deepseek(): Shape {
  const [layers, hidden, heads, vocab] = [27, 2048, 16, 102400];
  const [latent, nope, rope, value] = [512, 128, 64, 128];
  const [experts, inner, shared, dense] = [64, 1408, 2816, 10944];
  const prefixed = {
    block_count: layers,
    embedding_length: hidden,
    feed_forward_length: dense,
    context_length: 32768,
    vocab_size: vocab,
    leading_dense_block_count: 1,
    expert_count: experts,
    expert_used_count: 6,
    expert_shared_count: 2,
    expert_feed_forward_length: inner,
    expert_weights_scale: 1,
    "attention.head_count": heads,
    "attention.head_count_kv": 1,
    "attention.kv_lora_rank": latent,
    "attention.key_length": latent + rope,
    "attention.value_length": latent,
    "attention.key_length_mla": nope + rope,
    "attention.value_length_mla": value,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.dimension_count": rope,
    "rope.freq_base": 10000,
  };
  const mlp = (i: number) =>
    i === 0
      ? [
        [`blk.${i}.ffn_gate.weight`, [dense, hidden]],
        [`blk.${i}.ffn_up.weight`, [dense, hidden]],
        [`blk.${i}.ffn_down.weight`, [hidden, dense]],
      ] as const
      : [
        [`blk.${i}.ffn_gate_inp.weight`, [experts, hidden]],
        [`blk.${i}.ffn_gate_exps.weight`, [experts, inner, hidden]],
        [`blk.${i}.ffn_up_exps.weight`, [experts, inner, hidden]],
        [`blk.${i}.ffn_down_exps.weight`, [experts, hidden, inner]],
        [`blk.${i}.ffn_gate_shexp.weight`, [shared, hidden]],
        [`blk.${i}.ffn_up_shexp.weight`, [shared, hidden]],
        [`blk.${i}.ffn_down_shexp.weight`, [hidden, shared]],
      ] as const;
  const layer = (i: number) =>
    [
      [`blk.${i}.attn_norm.weight`, [hidden]],
      [`blk.${i}.attn_q.weight`, [heads * (nope + rope), hidden]],
      [`blk.${i}.attn_kv_a_mqa.weight`, [latent + rope, hidden]],
      [`blk.${i}.attn_kv_a_norm.weight`, [latent]],
      [`blk.${i}.attn_k_b.weight`, [heads, latent, nope]],
      [`blk.${i}.attn_v_b.weight`, [heads, value, latent]],
      [`blk.${i}.attn_output.weight`, [hidden, heads * value]],
      [`blk.${i}.ffn_norm.weight`, [hidden]],
      ...mlp(i),
    ] as const;
  return {
    metadata: withPrefix("deepseek2", prefixed),
    tensors: [
      ["token_embd.weight", [vocab, hidden]],
      ...Array.from({ length: layers }, (_, i) => layer(i)).flat(),
      ["output_norm.weight", [hidden]],
      ["output.weight", [vocab, hidden]],
    ],
  };
}

function withPrefix(architecture: string, values: Shape["metadata"]): Shape["metadata"] {
  return {
    "general.architecture": architecture,
    ...Object.fromEntries(
      Object.entries(values).map(([name, value]) => [`${architecture}.${name}`, value]),
    ),
  };
}

export const MADE_UP_MODELS = { "qwen-1.5b": qwen, "v2-lite": deepseek } as const;

export type MadeUpName = keyof typeof MADE_UP_MODELS;

/** A checkpoint of that shape. Matrices whose rows have no whole blocks of a K type are Q8_0. */
export function madeUpModel(name: MadeUpName, type: MadeUpType): TensorSource {
  const { metadata, tensors } = MADE_UP_MODELS[name]();
  const infos = tensors.map(([name, shape]): TensorInfo => {
    const cols = shape.at(-1)!;
    const own = typeOf(name, { shape, type });
    const rows = shape.slice(0, -1).reduce((product, extent) => product * extent, 1);
    return { name, type: own, shape, byteLength: rows * rowBytes(own, cols) };
  });
  // Made before anything is read, so that loading is timed with reads that only copy.
  const patterns = new Map<string, Uint8Array>();
  for (const info of infos) {
    const [key, ones] = [patternKey(info), info.shape.length === 1];
    if (!patterns.has(key)) patterns.set(key, makePattern(info.type, { ones }));
  }
  return {
    format: "gguf",
    name: `${name} ${type}, made up`,
    byteLength: infos.reduce((sum, { byteLength }) => sum + byteLength, 0),
    tensors: new Map(infos.map((info) => [info.name, info])),
    otherTensors: new Map(),
    metadata: new Map(Object.entries(metadata)),
    sidecar: () => Promise.resolve(null),
    read(tensor, offset, into) {
      const pattern = patterns.get(patternKey(tensor as TensorInfo))!;
      for (let i = 0; i < into.length;) {
        const part = pattern.subarray((offset + i) % pattern.length);
        into.set(part.subarray(0, into.length - i), i);
        i += part.length;
      }
      return Promise.resolve();
    },
    close() {},
  };
}

function patternKey({ type, shape }: TensorInfo): string {
  return `${type} ${shape.length === 1}`;
}

function typeOf(
  name: string,
  { shape, type }: { shape: readonly number[]; type: MadeUpType },
): TensorType {
  if (shape.length === 1 || name.endsWith("ffn_gate_inp.weight")) return "F32";
  return shape.at(-1)! % TENSOR_TYPES[type].blockValues === 0 ? type : "Q8_0";
}

/** A prime, so that rows don't begin alike. */
const PATTERN_BLOCKS = 65521;

/** Deviation of a weight; a row of 2048 gives sums of about 1. */
const SCALES = {
  /** 0.02 / 74, the root mean square of a signed byte, as float16 */
  Q8_0: 0x0c6d,
  /** 0.02 / 4.6 / 32, and 7.5 times as much to take away */
  Q4_K: { d: 0x0875, min: 0x142d },
} as const;

/** Six-bit scales and minima of 32 each. */
const K_SCALES = Uint8Array.of(0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0, 0, 0, 0);

function makePattern(type: TensorType, { ones }: { ones: boolean }): Uint8Array {
  if (type === "F32") return floats(ones);
  const { blockBytes } = TENSOR_TYPES[type];
  const bytes = new Uint8Array(PATTERN_BLOCKS * blockBytes);
  let state = 1;
  for (let i = 0; i < bytes.length; i++) {
    state = Math.imul(state, 1664525) + 1013904223 | 0;
    bytes[i] = state >>> 24;
  }
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += blockBytes) {
    if (type === "Q8_0") {
      view.setUint16(at, SCALES.Q8_0, true);
    } else {
      view.setUint16(at, SCALES.Q4_K.d, true);
      view.setUint16(at + 2, SCALES.Q4_K.min, true);
      bytes.set(K_SCALES, at + 4);
    }
  }
  return bytes;
}

function floats(ones: boolean): Uint8Array {
  let state = 7;
  const values = Float32Array.from({ length: ones ? 1024 : PATTERN_BLOCKS }, () => {
    if (ones) return 1;
    state = Math.imul(state, 1664525) + 1013904223 | 0;
    return state / 2 ** 31 * 0.04;
  });
  return new Uint8Array(values.buffer);
}
