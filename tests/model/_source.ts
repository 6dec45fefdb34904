/** Checkpoints made in memory, for tests of what a loader does with right and wrong ones. */

import type { MetadataValue, TensorInfo, TensorSource } from "../../src/formats/tensor_source.ts";

export interface SourceParts {
  readonly format: TensorSource["format"];
  readonly metadata: Record<string, MetadataValue>;
  /** Shapes by name; all are F32. */
  readonly shapes: Record<string, readonly number[]>;
}

/** A source whose tensors hold small deterministic values. */
export function sourceOf({ format, metadata, shapes }: SourceParts): TensorSource {
  const tensors = new Map<string, TensorInfo>(
    Object.entries(shapes).map(([name, shape]) => {
      const count = shape.reduce((product, extent) => product * extent, 1);
      return [name, { name, type: "F32", shape, byteLength: 4 * count }];
    }),
  );
  return {
    format,
    name: "made.gguf",
    byteLength: [...tensors.values()].reduce((sum, { byteLength }) => sum + byteLength, 0),
    tensors,
    otherTensors: new Map(),
    metadata: new Map(Object.entries(metadata)),
    sidecar: () => Promise.resolve(null),
    read(tensor, offset, into) {
      const view = new DataView(into.buffer, into.byteOffset, into.byteLength);
      for (let i = 0; i < into.length; i += 4) {
        view.setFloat32(i, Math.sin(offset + i + tensor.name.length), true);
      }
      return Promise.resolve();
    },
    close() {},
  };
}

/** A complete llama of one layer in GGUF: hidden 8, two heads of four, one of keys and values. */
export function ggufLlama(): SourceParts {
  return {
    format: "gguf",
    metadata: {
      "general.architecture": "llama",
      "llama.block_count": 1,
      "llama.context_length": 128,
      "llama.embedding_length": 8,
      "llama.feed_forward_length": 12,
      "llama.attention.head_count": 2,
      "llama.attention.head_count_kv": 1,
      "llama.attention.layer_norm_rms_epsilon": 1e-5,
      "llama.rope.freq_base": 10000,
      "llama.vocab_size": 10,
    },
    shapes: {
      "token_embd.weight": [10, 8],
      "blk.0.attn_norm.weight": [8],
      "blk.0.attn_q.weight": [8, 8],
      "blk.0.attn_k.weight": [4, 8],
      "blk.0.attn_v.weight": [4, 8],
      "blk.0.attn_output.weight": [8, 8],
      "blk.0.ffn_norm.weight": [8],
      "blk.0.ffn_gate.weight": [12, 8],
      "blk.0.ffn_up.weight": [12, 8],
      "blk.0.ffn_down.weight": [8, 12],
      "output_norm.weight": [8],
      "output.weight": [10, 8],
    },
  };
}

/** The same sizes as a Hugging Face checkpoint of one of the dense architectures. */
export function huggingFaceDense(architecture: "Llama" | "Qwen2" | "Qwen3"): SourceParts {
  const layer = "model.layers.0";
  const biases = {
    [`${layer}.self_attn.q_proj.bias`]: [8],
    [`${layer}.self_attn.k_proj.bias`]: [4],
    [`${layer}.self_attn.v_proj.bias`]: [4],
  };
  const headNorms = {
    [`${layer}.self_attn.q_norm.weight`]: [4],
    [`${layer}.self_attn.k_norm.weight`]: [4],
  };
  return {
    format: "safetensors",
    metadata: {
      architectures: [`${architecture}ForCausalLM`],
      num_hidden_layers: 1,
      max_position_embeddings: 128,
      hidden_size: 8,
      intermediate_size: 12,
      num_attention_heads: 2,
      num_key_value_heads: 1,
      rms_norm_eps: 1e-5,
      rope_theta: 10000,
      vocab_size: 10,
      tie_word_embeddings: false,
      hidden_act: "silu",
    },
    shapes: {
      "model.embed_tokens.weight": [10, 8],
      [`${layer}.input_layernorm.weight`]: [8],
      [`${layer}.self_attn.q_proj.weight`]: [8, 8],
      [`${layer}.self_attn.k_proj.weight`]: [4, 8],
      [`${layer}.self_attn.v_proj.weight`]: [4, 8],
      [`${layer}.self_attn.o_proj.weight`]: [8, 8],
      [`${layer}.post_attention_layernorm.weight`]: [8],
      [`${layer}.mlp.gate_proj.weight`]: [12, 8],
      [`${layer}.mlp.up_proj.weight`]: [12, 8],
      [`${layer}.mlp.down_proj.weight`]: [8, 12],
      "model.norm.weight": [8],
      "lm_head.weight": [10, 8],
      ...(architecture === "Qwen2" && biases),
      ...(architecture === "Qwen3" && headNorms),
    },
  };
}
