/**
 * GPT-OSS's three ways to keep experts hold the same weights, so they must give the same logits: columns
 * in turn (held against transformers by the goldens), MXFP4 as its own checkpoints have it, and GGUF.
 */

import { assertEquals } from "@std/assert";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import type { TensorSource } from "../../src/formats/tensor_source.ts";
import { Evaluator } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { bf16Bytes, f32Bytes, memorySource, type MemoryTensor, noise } from "./_memory_source.ts";

const HIDDEN = 64;
const WIDTH = 32;
const EXPERTS = 3;
const VOCAB = 20;
const IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8];

/** The values of a nibble (OCP MX specification, section 5.3.3). */
const E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6];

/** Weights of one layer, by meaning. */
const PLAIN: Readonly<Record<string, readonly number[]>> = {
  embedding: [VOCAB, HIDDEN],
  attentionNorm: [HIDDEN],
  q: [32, HIDDEN],
  qBias: [32],
  k: [16, HIDDEN],
  kBias: [16],
  v: [16, HIDDEN],
  vBias: [16],
  o: [HIDDEN, 32],
  oBias: [HIDDEN],
  sinks: [2],
  mlpNorm: [HIDDEN],
  router: [EXPERTS, HIDDEN],
  routerBias: [EXPERTS],
  outputNorm: [HIDDEN],
  output: [VOCAB, HIDDEN],
};

const NAMES: Readonly<Record<string, readonly [huggingFace: string, gguf: string]>> = {
  embedding: ["model.embed_tokens.weight", "token_embd.weight"],
  attentionNorm: ["model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"],
  q: ["model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight"],
  qBias: ["model.layers.0.self_attn.q_proj.bias", "blk.0.attn_q.bias"],
  k: ["model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight"],
  kBias: ["model.layers.0.self_attn.k_proj.bias", "blk.0.attn_k.bias"],
  v: ["model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"],
  vBias: ["model.layers.0.self_attn.v_proj.bias", "blk.0.attn_v.bias"],
  o: ["model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight"],
  oBias: ["model.layers.0.self_attn.o_proj.bias", "blk.0.attn_output.bias"],
  sinks: ["model.layers.0.self_attn.sinks", "blk.0.attn_sinks.weight"],
  mlpNorm: ["model.layers.0.post_attention_layernorm.weight", "blk.0.post_attention_norm.weight"],
  router: ["model.layers.0.mlp.router.weight", "blk.0.ffn_gate_inp.weight"],
  routerBias: ["model.layers.0.mlp.router.bias", "blk.0.ffn_gate_inp.bias"],
  outputNorm: ["model.norm.weight", "output_norm.weight"],
  output: ["lm_head.weight", "output.weight"],
};

function plainTensors(format: 0 | 1): Record<string, MemoryTensor> {
  return Object.fromEntries(
    Object.entries(PLAIN).map(([role, shape], i): [string, MemoryTensor] => {
      const count = shape.reduce((product, extent) => product * extent, 1);
      const bytes = f32Bytes(noise(count, i + 1).map((value) => value / 2));
      return [NAMES[role][format], { type: "F32", shape, bytes }];
    }),
  );
}

/** MXFP4 experts as the checkpoints have them: nibbles of neighbours, and exponents. */
interface Packed {
  readonly rows: number;
  readonly cols: number;
  readonly blocks: Uint8Array;
  readonly scales: Uint8Array;
}

function packed(rows: number, cols: number, seed: number): Packed {
  const count = EXPERTS * rows * cols;
  return {
    rows,
    cols,
    blocks: Uint8Array.from(noise(count / 2, seed), (value) => Math.floor((value + 1) * 128)),
    // Exponents of -6 to -3: values that bfloat16 holds exactly.
    scales: Uint8Array.from(
      noise(count / 32, seed + 1),
      (value) => 121 + Math.floor((value + 1) * 2),
    ),
  };
}

/** The value of an expert's matrix at row r, column c. */
function valueAt({ rows, cols, blocks, scales }: Packed, e: number, r: number, c: number): number {
  const at = (e * rows + r) * cols + c;
  const nibble = (blocks[at >> 1] >> (at % 2 === 0 ? 0 : 4)) & 15;
  return E2M1[nibble] * 2 ** (scales[at >> 5] - 127);
}

/** Values of all experts' [rows, cols], each from a function of expert, row and column. */
function stack(
  [rows, cols]: [number, number],
  value: (e: number, r: number, c: number) => number,
): Float32Array {
  return Float32Array.from({ length: EXPERTS * rows * cols }, (_, i) => {
    const c = i % cols;
    const r = Math.floor(i / cols) % rows;
    return value(Math.floor(i / (rows * cols)), r, c);
  });
}

const GATE_UP = packed(2 * WIDTH, HIDDEN, 100);
const DOWN = packed(HIDDEN, WIDTH, 200);
const GATE_UP_BIAS = noise(EXPERTS * 2 * WIDTH, 300);
const DOWN_BIAS = noise(EXPERTS * HIDDEN, 301);

const CONFIG = {
  architectures: ["GptOssForCausalLM"],
  num_hidden_layers: 1,
  max_position_embeddings: 64,
  hidden_size: HIDDEN,
  intermediate_size: WIDTH,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 16,
  rms_norm_eps: 1e-5,
  rope_theta: 150000,
  rope_scaling: {
    rope_type: "yarn",
    factor: 4,
    original_max_position_embeddings: 16,
    truncate: false,
  },
  vocab_size: VOCAB,
  num_local_experts: EXPERTS,
  num_experts_per_tok: 2,
  sliding_window: 5,
};

const EXPERTS_NAME = "model.layers.0.mlp.experts";

const BIASES: Record<string, MemoryTensor> = {
  [`${EXPERTS_NAME}.gate_up_proj_bias`]: {
    type: "F32",
    shape: [EXPERTS, 2 * WIDTH],
    bytes: f32Bytes(GATE_UP_BIAS),
  },
  [`${EXPERTS_NAME}.down_proj_bias`]: {
    type: "F32",
    shape: [EXPERTS, HIDDEN],
    bytes: f32Bytes(DOWN_BIAS),
  },
};

function interleaved(): TensorSource {
  return memorySource({
    format: "safetensors",
    metadata: CONFIG,
    tensors: {
      ...plainTensors(0),
      ...BIASES,
      [`${EXPERTS_NAME}.gate_up_proj`]: {
        type: "BF16",
        shape: [EXPERTS, HIDDEN, 2 * WIDTH],
        bytes: bf16Bytes(stack([HIDDEN, 2 * WIDTH], (e, r, c) => valueAt(GATE_UP, e, c, r))),
      },
      [`${EXPERTS_NAME}.down_proj`]: {
        type: "BF16",
        shape: [EXPERTS, WIDTH, HIDDEN],
        bytes: bf16Bytes(stack([WIDTH, HIDDEN], (e, r, c) => valueAt(DOWN, e, c, r))),
      },
    },
  });
}

function mxfp4(): TensorSource {
  const bytes = (shape: number[], bytes: Uint8Array) => ({ dtype: "U8", shape, bytes });
  return memorySource({
    format: "safetensors",
    metadata: { ...CONFIG, quantization_config: { quant_method: "mxfp4" } },
    tensors: {
      ...plainTensors(0),
      ...BIASES,
      [`${EXPERTS_NAME}.gate_up_proj_blocks`]: bytes(
        [EXPERTS, 2 * WIDTH, HIDDEN / 32, 16],
        GATE_UP.blocks,
      ),
      [`${EXPERTS_NAME}.gate_up_proj_scales`]: bytes(
        [EXPERTS, 2 * WIDTH, HIDDEN / 32],
        GATE_UP.scales,
      ),
      [`${EXPERTS_NAME}.down_proj_blocks`]: bytes([EXPERTS, HIDDEN, WIDTH / 32, 16], DOWN.blocks),
      [`${EXPERTS_NAME}.down_proj_scales`]: bytes([EXPERTS, HIDDEN, WIDTH / 32], DOWN.scales),
    },
  });
}

function gguf(): TensorSource {
  const half = (first: number) =>
    stack([WIDTH, HIDDEN], (e, r, c) => valueAt(GATE_UP, e, 2 * r + first, c));
  const halfBias = (first: number) => GATE_UP_BIAS.filter((_, i) => i % 2 === first);
  const float = (shape: number[], values: Float32Array): MemoryTensor => ({
    type: "F32",
    shape,
    bytes: f32Bytes(values),
  });
  return memorySource({
    format: "gguf",
    metadata: {
      "general.architecture": "gpt-oss",
      "gpt-oss.block_count": 1,
      "gpt-oss.context_length": 64,
      "gpt-oss.embedding_length": HIDDEN,
      "gpt-oss.feed_forward_length": WIDTH,
      "gpt-oss.expert_feed_forward_length": WIDTH,
      "gpt-oss.attention.head_count": 2,
      "gpt-oss.attention.head_count_kv": 1,
      "gpt-oss.attention.key_length": 16,
      "gpt-oss.attention.value_length": 16,
      "gpt-oss.attention.layer_norm_rms_epsilon": 1e-5,
      "gpt-oss.attention.sliding_window": 5,
      "gpt-oss.rope.freq_base": 150000,
      "gpt-oss.rope.scaling.type": "yarn",
      "gpt-oss.rope.scaling.factor": 4,
      "gpt-oss.rope.scaling.original_context_length": 16,
      "gpt-oss.expert_count": EXPERTS,
      "gpt-oss.expert_used_count": 2,
    },
    tensors: {
      ...plainTensors(1),
      "blk.0.ffn_gate_exps.weight": float([EXPERTS, WIDTH, HIDDEN], half(0)),
      "blk.0.ffn_up_exps.weight": float([EXPERTS, WIDTH, HIDDEN], half(1)),
      "blk.0.ffn_down_exps.weight": float(
        [EXPERTS, HIDDEN, WIDTH],
        stack([HIDDEN, WIDTH], (e, r, c) => valueAt(DOWN, e, r, c)),
      ),
      "blk.0.ffn_gate_exps.bias": float([EXPERTS, WIDTH], halfBias(0)),
      "blk.0.ffn_up_exps.bias": float([EXPERTS, WIDTH], halfBias(1)),
      "blk.0.ffn_down_exps.bias": float([EXPERTS, HIDDEN], DOWN_BIAS),
    },
  });
}

async function logitsOf(source: TensorSource): Promise<Float32Array> {
  const backend = createReferenceBackend();
  const rows = IDS.length;
  const model = await loadModel({ source, backend, maxRows: rows, maxLogitRows: rows });
  const evaluator = new Evaluator({ model, backend, maxRows: rows, sequences: 1, tokens: rows });
  const [logits] = await evaluator.allLogits([IDS], { chunk: rows });
  return logits;
}

Deno.test("GPT-OSS gives the same bits from MXFP4 blocks and scales as from the values they stand for", async () => {
  assertEquals(await logitsOf(mxfp4()), await logitsOf(interleaved()));
});

Deno.test("GPT-OSS gives the same bits from a GGUF file, biases, sinks and windows included", async () => {
  assertEquals(await logitsOf(gguf()), await logitsOf(interleaved()));
});
