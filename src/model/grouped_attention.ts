/**
 * Attention whose query heads share keys and values in groups (Ainslie et al. 2023): what families
 * vary, the weights, and the block. Keys and values go to the cache.
 */

import type { KvCache, ModelCache, Norm } from "../backend/backend.ts";
import type { ConfigKey, ConfigReader } from "./config_reader.ts";
import { type Block, type BlockContext, loadNorm, loadProjection, scaleOf } from "./layers.ts";
import { MAX_HEAD_DIM, MAX_HEADS, MAX_WIDTH } from "./limits.ts";
import type { WeightSpec } from "./weights.ts";

/** What tells families apart. */
export interface AttentionTraits {
  readonly queryKeyValueBias: boolean;
  readonly outputBias: boolean;
  /** Queries and keys are normalised: each head by itself (Qwen3), or the whole row (OLMoE). */
  readonly norms: "none" | "head" | "row";
  /** Factor on scores; by default headDim^-0.5. */
  readonly scale?: number;
  /** Of each layer, how many of the last positions a row sees; undefined for all of them. */
  readonly windows?: readonly (number | undefined)[];
  /** Each head has a score that takes part in the softmax without a value (GPT-OSS). */
  readonly sinks?: boolean;
}

export interface GroupedAttentionConfig extends AttentionTraits {
  readonly kind: "grouped";
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

const KEYS = {
  heads: { gguf: "attention.head_count", huggingFace: "num_attention_heads" },
  kvHeads: { gguf: "attention.head_count_kv", huggingFace: "num_key_value_heads" },
  headDim: { gguf: "attention.key_length", huggingFace: "head_dim" },
  valueDim: { gguf: "attention.value_length", huggingFace: "head_dim" },
  hiddenSize: { gguf: "embedding_length", huggingFace: "hidden_size" },
} as const satisfies Record<string, ConfigKey>;

/** Reads and cross-checks heads and their width. */
export function readGroupedAttention(
  reader: ConfigReader,
  { hiddenSize, traits }: { hiddenSize: number; traits: AttentionTraits },
): GroupedAttentionConfig {
  const heads = reader.integer(KEYS.heads, { min: 1, max: MAX_HEADS });
  const kvHeads = reader.integer(KEYS.kvHeads, { min: 1, max: heads, fallback: heads });
  if (heads % kvHeads !== 0) {
    throw reader.contradiction(KEYS.kvHeads, {
      is: kvHeads,
      must: `a divisor of the ${heads} attention heads`,
    });
  }
  const headDim = readHeadDim(reader, { hiddenSize, heads });
  return Object.freeze({ kind: "grouped", heads, kvHeads, headDim, ...traits });
}

function readHeadDim(
  reader: ConfigReader,
  { hiddenSize, heads }: { hiddenSize: number; heads: number },
): number {
  if (!reader.has(KEYS.headDim) && hiddenSize % heads !== 0) {
    throw reader.contradiction(KEYS.hiddenSize, {
      is: hiddenSize,
      must: `a multiple of the ${heads} attention heads`,
    });
  }
  const headDim = reader.integer(KEYS.headDim, {
    min: 2,
    max: MAX_HEAD_DIM,
    fallback: hiddenSize / heads,
  });
  if (headDim % 2 !== 0) throw reader.contradiction(KEYS.headDim, { is: headDim, must: "even" });
  if (heads * headDim > MAX_WIDTH) {
    throw reader.contradiction(KEYS.headDim, {
      is: headDim,
      must: `at most ${MAX_WIDTH} over the ${heads} heads together`,
    });
  }
  const valueDim = reader.integer(KEYS.valueDim, { min: 1, max: MAX_HEAD_DIM, fallback: headDim });
  if (valueDim !== headDim) {
    throw reader.contradiction(KEYS.valueDim, {
      is: valueDim,
      must: `${headDim}, the width of a head of keys`,
    });
  }
  return headDim;
}

/** The block's weights in the order in which a step reads them. */
export function groupedAttentionSpecs(
  config: GroupedAttentionConfig,
  { layer, hiddenSize }: { layer: number; hiddenSize: number },
): WeightSpec[] {
  const { heads, kvHeads, headDim, norms } = config;
  const queryWidth = heads * headDim;
  const kvWidth = kvHeads * headDim;
  const specs: WeightSpec[] = [
    { role: "attentionNorm", layer, shape: [hiddenSize] },
    { role: "query", layer, shape: [queryWidth, hiddenSize] },
    { role: "key", layer, shape: [kvWidth, hiddenSize] },
    { role: "value", layer, shape: [kvWidth, hiddenSize] },
  ];
  if (config.queryKeyValueBias) {
    specs.push(
      { role: "queryBias", layer, shape: [queryWidth] },
      { role: "keyBias", layer, shape: [kvWidth] },
      { role: "valueBias", layer, shape: [kvWidth] },
    );
  }
  if (norms !== "none") {
    specs.push(
      { role: "queryNorm", layer, shape: [norms === "head" ? headDim : queryWidth] },
      { role: "keyNorm", layer, shape: [norms === "head" ? headDim : kvWidth] },
    );
  }
  if (config.sinks) specs.push({ role: "sinks", layer, shape: [heads] });
  specs.push({ role: "attentionOutput", layer, shape: [hiddenSize, queryWidth] });
  if (config.outputBias) {
    specs.push({ role: "attentionOutputBias", layer, shape: [hiddenSize] });
  }
  return specs;
}

/** Uploads the block's weights and returns what records it. */
export async function loadGroupedAttention(
  config: GroupedAttentionConfig,
  context: BlockContext,
): Promise<Block> {
  const { layer, loader, workspace, rope, rmsNormEps: eps, residualScale } = context;
  const { heads, kvHeads, headDim } = config;
  const norm = await loadNorm(context, { role: "attentionNorm", eps });
  const query = await loadProjection(context, { weight: "query", bias: "queryBias" });
  const key = await loadProjection(context, { weight: "key", bias: "keyBias" });
  const value = await loadProjection(context, { weight: "value", bias: "valueBias" });
  const normed = config.norms !== "none";
  const qNorm = normed ? await loadNorm(context, { role: "queryNorm", eps }) : undefined;
  const kNorm = normed ? await loadNorm(context, { role: "keyNorm", eps }) : undefined;
  const sinks = config.sinks ? await loader.upload("sinks", { layer }) : undefined;
  const output = await loadProjection(context, {
    weight: "attentionOutput",
    bias: "attentionOutputBias",
  });
  const q = workspace.get("query", heads * headDim);
  const k = workspace.get("key", kvHeads * headDim);
  const v = workspace.get("value", kvHeads * headDim);
  const attended = workspace.get("attended", heads * headDim);
  const window = config.windows?.[layer];
  const headNorms: { qNorm?: Norm; kNorm?: Norm } = config.norms === "head" ? { qNorm, kNorm } : {};
  const read = {
    heads,
    scale: config.scale ?? headDim ** -0.5,
    layer,
    ...(window !== undefined && { window }),
    ...(sinks && { sinks }),
  };
  return (ops, { inputs, cache: anyCache, rows }) => {
    const cache = keyValues(anyCache);
    const { batch, cosSin } = inputs;
    ops.linear({
      x: workspace.x,
      norm,
      outputs: [{ ...query, out: q }, { ...key, out: k }, { ...value, out: v }],
      rows,
    });
    if (config.norms === "row") {
      ops.rmsNorm({ ...(qNorm as Norm), x: q, out: q, rows });
      ops.rmsNorm({ ...(kNorm as Norm), x: k, out: k, rows });
    }
    const rotated = { q, k, v, heads, ...headNorms };
    const { pairing } = rope;
    ops.rotateAndCache({ ...rotated, cosSin, pairing, cache, layer, batch, rows });
    ops.attention({ ...read, q, cache, batch, out: attended, rows });
    const added = { ...output, out: workspace.x, accumulate: true, ...scaleOf(residualScale) };
    ops.linear({ x: attended, outputs: [added], rows });
  };
}

function keyValues(cache: ModelCache): KvCache {
  if ("latentDim" in cache) throw new TypeError("cannot record attention: its cache holds latents");
  return cache;
}
