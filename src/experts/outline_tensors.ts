/**
 * The outline of a checkpoint, from its own tensors: their extents, their bytes, and by their names
 * what they are for. Only what no tensor tells (how many experts a token takes, the cache's shape)
 * comes from the configuration.
 */

import { architectureOf } from "../formats/hyper_parameters.ts";
import type { OtherTensorInfo, TensorInfo, TensorSource } from "../formats/tensor_source.ts";
import { ConfigReader } from "../model/config_reader.ts";
import type { CacheOutline, Matrices, ModelOutline, Part, PartKind } from "./outline.ts";
import { cacheOf, Fields } from "./outline_config.ts";

type Tensor = TensorInfo | OtherTensorInfo;

/** A part while its tensors are summed up. */
type PartSum =
  & { -readonly [K in keyof Omit<Part, "bytesByType">]-?: Part[K] }
  & { bytesByType: Record<string, number> };

/** What is counted beside the tensors. */
type Facts = Omit<ModelOutline, "name" | "parts" | "tied">;

/** Sums a checkpoint up. Throws FormatError where its configuration lacks what is asked for here. */
export function outlineFromTensors(source: TensorSource): ModelOutline {
  const facts = source.format === "gguf" ? ggufFacts(source) : configFacts(source);
  const parts = new Map<string, PartSum>();
  for (const tensor of [...source.tensors.values(), ...source.otherTensors.values()]) {
    const place = placeOf(tensor.name, source.format);
    const layer = place.layer;
    const key = `${layer} ${place.kind}`;
    let part = parts.get(key);
    if (part === undefined) {
      const mtp = layer !== null && layer >= facts.layers;
      part = { kind: place.kind, layer, mtp, matrices: [], vectors: 0, bytes: 0, bytesByType: {} };
      parts.set(key, part);
    }
    const { matrices, vectors } = valuesOf(tensor);
    part.matrices = [...part.matrices, ...matrices];
    part.vectors += vectors;
    part.bytes += tensor.byteLength;
    const type = "type" in tensor ? tensor.type : tensor.dtype;
    part.bytesByType[type] = (part.bytesByType[type] ?? 0) + tensor.byteLength;
  }
  const hasHead = [...parts.values()].some(({ kind, mtp }) => kind === "head" && !mtp);
  return { ...facts, name: source.name, tied: !hasHead, parts: [...parts.values()] };
}

/** Names within a layer or outside of all; the first pattern that fits decides. */
type Patterns = readonly (readonly [RegExp, PartKind])[];

const GGUF_PATTERNS: Patterns = [
  [/^(token_embd|nextn\.embed_tokens)\./, "embedding"],
  [/^(output|nextn\.shared_head_head)\./, "head"],
  [/^nextn\.eh_proj\./, "next-token projection"],
  [/^nextn\.|^(output|attn|ffn|post_attention)_norm\./, "norms"],
  [/^attn_/, "attention"],
  [/_exps\.|^ffn_(gate|up|down)\.\d+\./, "routed experts"],
  [/_shexp\./, "shared experts"],
  [/^(ffn_gate_inp|exp_probs_b)\b/, "gate"],
  [/^ffn_/, "dense feed-forward"],
];

const HUGGING_FACE_PATTERNS: Patterns = [
  [/^(model\.)?embed_tokens\./, "embedding"],
  [/^(lm_head|shared_head\.head)\./, "head"],
  [/^eh_proj\./, "next-token projection"],
  [/^self_attn\./, "attention"],
  [/\.experts?\.|^block_sparse_moe\.(input|output)_linear\./, "routed experts"],
  [/\.shared_experts?\b/, "shared experts"],
  [/^(mlp|block_sparse_moe)\.(gate|router)\./, "gate"],
  [/^mlp\./, "dense feed-forward"],
];

const LAYER = {
  gguf: /^blk\.(\d+)\.(.*)$/,
  safetensors: /^model\.layers\.(\d+)\.(.*)$/,
} as const;

/** Which part a tensor belongs to; what no pattern knows is small and counted with the norms. */
function placeOf(
  name: string,
  format: TensorSource["format"],
): { kind: PartKind; layer: number | null } {
  const match = LAYER[format].exec(name);
  const own = match?.[2] ?? name;
  const patterns = format === "gguf" ? GGUF_PATTERNS : HUGGING_FACE_PATTERNS;
  const kind = patterns.find(([pattern]) => pattern.test(own))?.[1] ?? "norms";
  return { kind, layer: match === null ? null : Number(match[1]) };
}

/** The weights of all gates, by name. */
export function gateTensors(source: TensorSource): TensorInfo[] {
  return [...source.tensors.values()]
    .filter(({ name }) => placeOf(name, source.format).kind === "gate")
    .sort((a, b) => a.name < b.name ? -1 : 1);
}

/** The parameters a tensor holds; none in scales, which belong to the values beside them. */
function valuesOf({ name, shape }: Tensor): {
  readonly matrices: readonly Matrices[];
  readonly vectors: number;
} {
  if (/_(scale_inv|scales)$/.test(name)) return { matrices: [], vectors: 0 };
  if (/_blocks$/.test(name) && shape.length === 4) {
    // MXFP4 as GPT-OSS publishes it: bytes [experts, rows, blocks, 16], two values a byte.
    const [count, rows, blocks, bytes] = shape;
    return { matrices: [{ rows, cols: blocks * bytes * 2, count }], vectors: 0 };
  }
  if (shape.length < 2 || /bias$/.test(name)) {
    return { matrices: [], vectors: shape.reduce((product, extent) => product * extent, 1) };
  }
  const count = shape.slice(0, -2).reduce((product, extent) => product * extent, 1);
  const [rows, cols] = shape.slice(-2);
  // GPT-OSS keeps its experts' matrices transposed.
  const transposed = /\.experts\.(gate_up|down)_proj$/.test(name);
  return {
    matrices: [transposed ? { rows: cols, cols: rows, count } : { rows, cols, count }],
    vectors: 0,
  };
}

function configFacts(source: TensorSource): Facts {
  const fields = new Fields(source.metadata);
  const experts = ["n_routed_experts", "num_experts", "num_local_experts"]
    .find((name) => fields.has(name));
  return {
    architecture: fields.type,
    layers: fields.whole("num_hidden_layers"),
    hiddenSize: fields.hidden,
    vocabSize: fields.vocab,
    contextLength: fields.whole("max_position_embeddings", { max: 2 ** 31 - 1, fallback: 2048 }),
    experts: experts === undefined ? 0 : fields.whole(experts),
    topK: experts === undefined ? 0 : fields.whole("num_experts_per_tok"),
    cache: cacheOf(fields),
    ...(fields.storedAs !== undefined && { storedAs: fields.storedAs }),
  };
}

function ggufFacts(source: TensorSource): Facts {
  const architecture = architectureOf(source);
  const reader = new ConfigReader(source, architecture);
  const whole = (gguf: string, fallback?: number) =>
    reader.integer({ gguf, huggingFace: "" }, {
      min: fallback === 0 ? 0 : 1,
      max: 2 ** 31 - 1,
      ...(fallback !== undefined && { fallback }),
    });
  const hidden = whole("embedding_length");
  const heads = whole("attention.head_count");
  return {
    architecture,
    layers: whole("block_count") - whole("nextn_predict_layers", 0),
    hiddenSize: hidden,
    vocabSize: source.tensors.get("token_embd.weight")?.shape[0] ?? whole("vocab_size"),
    contextLength: whole("context_length"),
    experts: whole("expert_count", 0),
    topK: whole("expert_used_count", 0),
    cache: ggufCache(whole, { hidden, heads }),
  };
}

function ggufCache(
  whole: (name: string, fallback?: number) => number,
  { hidden, heads }: { hidden: number; heads: number },
): CacheOutline {
  const plain = Math.max(1, Math.floor(hidden / heads));
  const key = whole("attention.key_length", plain);
  const value = whole("attention.value_length", plain);
  const latent = whole("attention.kv_lora_rank", 0);
  if (latent === 0) {
    const kvHeads = whole("attention.head_count_kv", heads);
    return {
      latent: false,
      width: kvHeads * (key + value),
      plainWidth: heads * (key + value),
    };
  }
  // Newer files give the absorbed lengths under the plain names and the heads' own under these.
  const own = whole("attention.key_length_mla", key) + whole("attention.value_length_mla", value);
  return { latent: true, width: latent + whole("rope.dimension_count"), plainWidth: heads * own };
}
