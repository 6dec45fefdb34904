/**
 * Multi-head latent attention (DeepSeek-V2, section 2.1): keys and values of all heads come from one
 * latent a token, and the cache holds that latent and one rotated key. Recorded in the absorbed form:
 * the up projection of the keys is folded into the queries, that of the values into the output, so
 * that attention itself runs over latents.
 */

import type { LatentCache, ModelCache, TensorData } from "../backend/backend.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import type { ConfigKey, ConfigReader } from "./config_reader.ts";
import { type Block, type BlockContext, loadNorm, scaleOf } from "./layers.ts";
import { MAX_HEAD_DIM, MAX_HEADS, MAX_WIDTH } from "./limits.ts";
import { tensorName } from "./names.ts";
import { readYarnTemperature } from "./rope.ts";
import { headRows, transposedHeads } from "./tensor_data.ts";
import type { WeightSpec } from "./weights.ts";

/** Epsilon of the norms on latents, whatever `rms_norm_eps` says (transformers' default). */
const LATENT_NORM_EPS = 1e-6;

export interface LatentAttentionConfig {
  readonly kind: "latent";
  readonly heads: number;
  /** Values of a head of queries that are not rotated, and that are. */
  readonly nopeDim: number;
  readonly ropeDim: number;
  readonly valueDim: number;
  /** Width of the latent of keys and values. */
  readonly latentDim: number;
  /** Width of the latent of queries; undefined where queries are projected at once. */
  readonly queryLatentDim?: number;
  /** Factor on scores. */
  readonly scale: number;
  /** Whether the file has the two halves of the up projection apart, the keys' transposed. */
  readonly split: boolean;
}

const KEYS = {
  heads: { gguf: "attention.head_count", huggingFace: "num_attention_heads" },
  latentDim: { gguf: "attention.kv_lora_rank", huggingFace: "kv_lora_rank" },
  queryLatentDim: { gguf: "attention.q_lora_rank", huggingFace: "q_lora_rank" },
  ropeDim: { gguf: "rope.dimension_count", huggingFace: "qk_rope_head_dim" },
  nopeDim: { gguf: "", huggingFace: "qk_nope_head_dim" },
  // Since the up projection is kept apart, key_length and value_length are those of the latent.
  keyDim: { gguf: "attention.key_length_mla", huggingFace: "" },
  valueDim: { gguf: "attention.value_length_mla", huggingFace: "v_head_dim" },
  legacyKeyDim: { gguf: "attention.key_length", huggingFace: "" },
  legacyValueDim: { gguf: "attention.value_length", huggingFace: "v_head_dim" },
} as const satisfies Record<string, ConfigKey>;

/** Whether a GGUF file has the up projection in one tensor, as llama.cpp wrote it until 2025. */
export function hasLegacyLatentUp(source: TensorSource): boolean {
  return source.tensors.has(tensorName("latentUp", { format: "gguf", layer: 0 }));
}

/** Reads and cross-checks the sizes; throws FormatError. */
export function readLatentAttention(
  reader: ConfigReader,
  source: TensorSource,
): LatentAttentionConfig {
  const heads = reader.integer(KEYS.heads, { min: 1, max: MAX_HEADS });
  const width = { min: 1, max: MAX_WIDTH };
  const head = { min: 1, max: MAX_HEAD_DIM };
  const latentDim = reader.integer(KEYS.latentDim, width);
  const rank = reader.integer(KEYS.queryLatentDim, { ...width, min: 0, fallback: 0 });
  const ropeDim = reader.integer(KEYS.ropeDim, { ...head, min: 2 });
  if (ropeDim % 2 !== 0) throw reader.contradiction(KEYS.ropeDim, { is: ropeDim, must: "even" });
  const gguf = source.format === "gguf";
  const split = gguf && !hasLegacyLatentUp(source);
  const nopeDim = gguf
    ? readNopeDim(reader, { key: split ? KEYS.keyDim : KEYS.legacyKeyDim, ropeDim })
    : reader.integer(KEYS.nopeDim, head);
  const valueDim = reader.integer(split ? KEYS.valueDim : KEYS.legacyValueDim, head);
  for (const wide of [nopeDim + ropeDim, valueDim, latentDim]) {
    if (heads * wide <= MAX_WIDTH * 4) continue;
    const must = `at most ${Math.floor(MAX_WIDTH * 4 / wide)} at ${wide} values each`;
    throw reader.contradiction(KEYS.heads, { is: heads, must });
  }
  const temperature = readYarnTemperature(reader);
  return Object.freeze({
    kind: "latent",
    heads,
    nopeDim,
    ropeDim,
    valueDim,
    latentDim,
    ...(rank > 0 && { queryLatentDim: rank }),
    scale: (nopeDim + ropeDim) ** -0.5 * temperature ** 2,
    split,
  });
}

/** GGUF states the width of a whole head of queries. */
function readNopeDim(
  reader: ConfigReader,
  { key, ropeDim }: { key: ConfigKey; ropeDim: number },
): number {
  const keyDim = reader.integer(key, { min: 2, max: MAX_HEAD_DIM });
  if (keyDim > ropeDim) return keyDim - ropeDim;
  throw reader.contradiction(key, { is: keyDim, must: `above ${ropeDim}, its rotated values` });
}

/** The block's weights in the order in which a step reads them. */
export function latentAttentionSpecs(
  config: LatentAttentionConfig,
  { layer, hiddenSize }: { layer: number; hiddenSize: number },
): WeightSpec[] {
  const { heads, nopeDim, ropeDim, valueDim, latentDim, queryLatentDim } = config;
  const queryWidth = heads * (nopeDim + ropeDim);
  const query: WeightSpec[] = queryLatentDim === undefined
    ? [{ role: "query", layer, shape: [queryWidth, hiddenSize] }]
    : [
      { role: "queryDown", layer, shape: [queryLatentDim, hiddenSize] },
      { role: "queryDownNorm", layer, shape: [queryLatentDim] },
      { role: "queryUp", layer, shape: [queryWidth, queryLatentDim] },
    ];
  const up: WeightSpec[] = config.split
    ? [
      { role: "latentKey", layer, shape: [heads, latentDim, nopeDim] },
      { role: "latentValue", layer, shape: [heads, valueDim, latentDim] },
    ]
    : [{ role: "latentUp", layer, shape: [heads * (nopeDim + valueDim), latentDim] }];
  return [
    { role: "attentionNorm", layer, shape: [hiddenSize] },
    ...query,
    { role: "latentDown", layer, shape: [latentDim + ropeDim, hiddenSize] },
    { role: "latentNorm", layer, shape: [latentDim] },
    ...up,
    { role: "attentionOutput", layer, shape: [hiddenSize, heads * valueDim] },
  ];
}

/** What reads the one or the other part of the up projection's rows. */
export type LatentUpHalf = "keys" | "values";

/** The name of a half of an up projection that the file has in one tensor of this name. */
export function latentUpHalf(name: string, half: LatentUpHalf): string {
  return `${name} (${half})`;
}

/**
 * The up projections by head: `[heads * latent, nope]` takes a query to the latents, `[heads * value,
 * latent]` takes attended latents to values.
 */
export interface UpProjections {
  readonly key: TensorData;
  readonly value: TensorData;
}

/** Both of them from the one tensor that holds them; keys that have blocks become `otherwise`. */
export function splitLatentUp(
  both: TensorData,
  { config, otherwise }: { config: LatentAttentionConfig; otherwise: "F32" | "F16" },
): UpProjections {
  const { heads, nopeDim, valueDim } = config;
  const perHead = nopeDim + valueDim;
  const name = (half: LatentUpHalf) => latentUpHalf(both.name, half);
  const keys = { name: name("keys"), heads, perHead, start: 0, count: nopeDim };
  const values = { name: name("values"), heads, perHead, start: nopeDim, count: valueDim };
  return { key: transposedHeads(both, { ...keys, otherwise }), value: headRows(both, values) };
}

function upProjections(
  config: LatentAttentionConfig,
  { layer, loader }: BlockContext,
): UpProjections {
  if (config.split) {
    const key = loader.tensor("latentKey", { layer });
    return { key, value: loader.tensor("latentValue", { layer }) };
  }
  const otherwise = loader.backend.activations === "f32" ? "F32" : "F16";
  return splitLatentUp(loader.tensor("latentUp", { layer }), { config, otherwise });
}

/** Uploads the block's weights and returns what records it. */
export async function loadLatentAttention(
  config: LatentAttentionConfig,
  context: BlockContext,
): Promise<Block> {
  const { layer, loader, workspace, rope, residualScale } = context;
  const { heads, nopeDim, ropeDim, valueDim, latentDim, scale } = config;
  const norm = await loadNorm(context, { role: "attentionNorm", eps: context.rmsNormEps });
  const eps = LATENT_NORM_EPS;
  const direct = config.queryLatentDim === undefined;
  const down = await loader.upload(direct ? "query" : "queryDown", { layer });
  const downNorm = direct ? undefined : await loadNorm(context, { role: "queryDownNorm", eps });
  const queryUp = direct ? undefined : await loader.upload("queryUp", { layer });
  const latentDown = await loader.upload("latentDown", { layer });
  const latentNorm = await loadNorm(context, { role: "latentNorm", eps });
  const up = upProjections(config, context);
  const keyUp = await loader.uploadTensor(up.key);
  const valueUp = await loader.uploadTensor(up.value);
  const output = await loader.upload("attentionOutput", { layer });

  const q = workspace.get("query", heads * (nopeDim + ropeDim));
  const queryLatent = direct ? q : workspace.get("queryLatent", down.rows);
  const kv = workspace.get("latent", latentDim + ropeDim);
  const latentQuery = workspace.get("latentQuery", heads * latentDim);
  const latents = workspace.get("attendedLatent", heads * latentDim);
  const attended = workspace.get("attended", heads * valueDim);
  return (ops, { inputs, cache: anyCache, rows }) => {
    const cache = latentCache(anyCache);
    const { batch, cosSin } = inputs;
    const { pairing } = rope;
    const x = workspace.x;
    ops.linear({
      x,
      norm,
      outputs: [{ weight: down, out: queryLatent }, { weight: latentDown, out: kv }],
      rows,
    });
    if (queryUp && downNorm) {
      ops.linear({ x: queryLatent, norm: downNorm, outputs: [{ weight: queryUp, out: q }], rows });
    }
    const stride = nopeDim + ropeDim;
    ops.headLinear({ x: q, xStride: stride, weight: keyUp, heads, out: latentQuery, rows });
    const rotated = { q, heads, nopeDim, kv, latentNorm };
    ops.rotateAndCacheLatent({ ...rotated, cosSin, pairing, cache, layer, batch, rows });
    const read = { latentQuery, q, heads, nopeDim, scale };
    ops.latentAttention({ ...read, cache, layer, batch, out: latents, rows });
    const values = { x: latents, xStride: latentDim, weight: valueUp };
    ops.headLinear({ ...values, heads, out: attended, rows });
    const added = { weight: output, out: x, accumulate: true, ...scaleOf(residualScale) };
    ops.linear({ x: attended, outputs: [added], rows });
  };
}

function latentCache(cache: ModelCache): LatentCache {
  if ("latentDim" in cache) return cache;
  throw new TypeError("cannot record latent attention: its cache holds keys and values");
}
