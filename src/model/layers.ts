/**
 * The parts that transformers share, each recording its ops. `x` is the residual stream; each part
 * adds to it. Families with other blocks (experts, latent attention) add parts and keep the rest.
 */

import type { Backend, Buffer, KvCache, Norm, Ops, Weight } from "../backend/backend.ts";
import type { RopeConfig, StepInputs } from "./types.ts";

/** A matrix with its bias, where the model has one. */
export interface Projection {
  readonly weight: Weight;
  readonly bias?: Weight;
}

export interface AttentionWeights {
  readonly norm: Norm;
  readonly query: Projection;
  readonly key: Projection;
  readonly value: Projection;
  readonly output: Projection;
  /** Norms of each head of the queries and keys (Qwen3), weights [headDim]. */
  readonly queryNorm?: Norm;
  readonly keyNorm?: Norm;
}

export interface GatedMlpWeights {
  readonly norm: Norm;
  readonly gate: Weight;
  readonly up: Weight;
  readonly down: Weight;
}

/** Activations that all layers share. */
export interface Workspace {
  /** [maxRows, hidden] */
  readonly x: Buffer;
  /** [maxRows, heads * headDim] */
  readonly query: Buffer;
  /** [maxRows, kvHeads * headDim] */
  readonly key: Buffer;
  readonly value: Buffer;
  /** [maxRows, heads * headDim] */
  readonly attended: Buffer;
  /** [maxRows, intermediate] */
  readonly gated: Buffer;
  /** [maxLogitRows, hidden] */
  readonly gathered: Buffer;
  /** [maxLogitRows, vocab] */
  readonly logits: Buffer;
}

export function createWorkspace(
  backend: Backend,
  sizes: {
    maxRows: number;
    maxLogitRows: number;
    hiddenSize: number;
    heads: number;
    kvHeads: number;
    headDim: number;
    intermediateSize: number;
    vocabSize: number;
  },
): Workspace {
  const { maxRows, maxLogitRows, hiddenSize, heads, kvHeads, headDim } = sizes;
  const create = (rows: number, width: number) =>
    backend.createBuffer({ kind: "f32", rows, width });
  return {
    x: create(maxRows, hiddenSize),
    query: create(maxRows, heads * headDim),
    key: create(maxRows, kvHeads * headDim),
    value: create(maxRows, kvHeads * headDim),
    attended: create(maxRows, heads * headDim),
    gated: create(maxRows, sizes.intermediateSize),
    gathered: create(maxLogitRows, hiddenSize),
    logits: create(maxLogitRows, sizes.vocabSize),
  };
}

/** Grouped-query attention with rotary positions; keys and values go to the cache. */
export function recordAttention(
  ops: Ops,
  options: {
    weights: AttentionWeights;
    heads: number;
    headDim: number;
    rope: RopeConfig;
    layer: number;
    cache: KvCache;
    inputs: StepInputs;
    workspace: Workspace;
    rows: number;
  },
): void {
  const { weights, heads, headDim, rope, layer, cache, inputs, workspace, rows } = options;
  const { x, query, key, value, attended } = workspace;
  ops.linear({
    x,
    norm: weights.norm,
    outputs: [
      { ...weights.query, out: query },
      { ...weights.key, out: key },
      { ...weights.value, out: value },
    ],
    rows,
  });
  ops.rotateAndCache({
    q: query,
    k: key,
    v: value,
    heads,
    ...(weights.queryNorm && { qNorm: weights.queryNorm }),
    ...(weights.keyNorm && { kNorm: weights.keyNorm }),
    cosSin: inputs.cosSin,
    pairing: rope.pairing,
    cache,
    layer,
    batch: inputs.batch,
    rows,
  });
  const scale = headDim ** -0.5;
  ops.attention({ q: query, heads, scale, cache, layer, batch: inputs.batch, out: attended, rows });
  ops.linear({
    x: attended,
    outputs: [{ ...weights.output, out: x, accumulate: true }],
    rows,
  });
}

/** The gated feed-forward block (SwiGLU). */
export function recordGatedMlp(
  ops: Ops,
  options: { weights: GatedMlpWeights; workspace: Workspace; rows: number },
): void {
  const { weights, workspace, rows } = options;
  const { norm, gate, up, down } = weights;
  const { x, gated } = workspace;
  ops.gatedLinear({ x, norm, gate, up, activation: "silu", out: gated, rows });
  ops.linear({ x: gated, outputs: [{ weight: down, out: x, accumulate: true }], rows });
}

/** The final norm and the logits of the rows that are asked for. */
export function recordHead(
  ops: Ops,
  options: {
    norm: Norm;
    output: Weight;
    inputs: StepInputs;
    workspace: Workspace;
    rows: number;
  },
): void {
  const { norm, output, inputs, workspace, rows } = options;
  const { x, gathered, logits } = workspace;
  ops.gatherRows({ x, indices: inputs.logitRows, out: gathered, rows });
  ops.linear({ x: gathered, norm, outputs: [{ weight: output, out: logits }], rows });
}
