/**
 * What each op means, on plain arrays. Sums run in double precision and each result is rounded once
 * to float32, so that these are the values that faster backends are held against.
 */

import { type Norm, PAGE_TOKENS } from "../backend.ts";

/** A row-major float32 matrix. */
export interface Matrix {
  readonly rows: number;
  readonly cols: number;
  readonly values: Float32Array;
}

/** A norm with its weight as numbers. */
export interface NormValues {
  readonly weight: Float32Array;
  readonly eps: Norm["eps"];
}

/** x / rms(x) * weight for `count` values of `x` from `offset`, written to the same place of `out`. */
export function normalise(
  norm: NormValues,
  options: { x: Float32Array; offset: number; out: Float32Array },
): void {
  const { weight, eps } = norm;
  const { x, offset, out } = options;
  let squares = 0;
  for (let i = 0; i < weight.length; i++) squares += x[offset + i] * x[offset + i];
  const scale = 1 / Math.sqrt(squares / weight.length + eps);
  for (let i = 0; i < weight.length; i++) out[offset + i] = x[offset + i] * scale * weight[i];
}

/** One product of a weight row with an input row; four running sums, for speed only. */
export function dot(
  weight: Matrix,
  options: { row: number; x: Float32Array; offset: number },
): number {
  const { cols, values } = weight;
  const { x, offset } = options;
  const base = options.row * cols;
  let a = 0, b = 0, c = 0, d = 0;
  let i = 0;
  for (; i + 4 <= cols; i += 4) {
    a += values[base + i] * x[offset + i];
    b += values[base + i + 1] * x[offset + i + 1];
    c += values[base + i + 2] * x[offset + i + 2];
    d += values[base + i + 3] * x[offset + i + 3];
  }
  for (; i < cols; i++) a += values[base + i] * x[offset + i];
  return a + b + c + d;
}

/** out[t, r] = scale * (weight[r] . x[t] + bias[r]), or that added to out. */
export function linear(
  weight: Matrix,
  options: {
    x: Float32Array;
    bias: Float32Array | undefined;
    out: Float32Array;
    accumulate: boolean;
    scale: number;
    rows: number;
  },
): void {
  const { x, bias, out, accumulate, scale, rows } = options;
  // Weight rows outermost: each is read once, whatever the number of tokens.
  for (let r = 0; r < weight.rows; r++) {
    for (let t = 0; t < rows; t++) {
      const product = dot(weight, { row: r, x, offset: t * weight.cols });
      const value = scale * (product + (bias?.[r] ?? 0));
      const index = t * weight.rows + r;
      out[index] = accumulate ? out[index] + value : value;
    }
  }
}

/** out[t, r] = silu(gate[r] . x[t]) * (up[r] . x[t]) */
export function gatedLinear(
  weights: { gate: Matrix; up: Matrix },
  options: { x: Float32Array; out: Float32Array; rows: number },
): void {
  const { gate, up } = weights;
  const { x, out, rows } = options;
  for (let row = 0; row < gate.rows; row++) {
    for (let t = 0; t < rows; t++) {
      const offset = t * gate.cols;
      const g = dot(gate, { row, x, offset });
      out[t * gate.rows + row] = g / (1 + Math.exp(-g)) * dot(up, { row, x, offset });
    }
  }
}

/** Rotates the pairs of one head in place; the first `cosSin.length / 2` pairs of values take part. */
export function rotateHead(
  head: Float32Array,
  options: { cosSin: Float32Array; pairing: "halves" | "interleaved" },
): void {
  const { cosSin, pairing } = options;
  const pairs = cosSin.length / 2;
  for (let i = 0; i < pairs; i++) {
    const first = pairing === "halves" ? i : 2 * i;
    const second = pairing === "halves" ? i + pairs : 2 * i + 1;
    const a = head[first];
    const b = head[second];
    head[first] = a * cosSin[i] - b * cosSin[pairs + i];
    head[second] = a * cosSin[pairs + i] + b * cosSin[i];
  }
}

/** Keys and values of one layer: [pages, PAGE_TOKENS, kvHeads, dim]. */
export interface LayerCache {
  readonly keys: Float32Array;
  readonly values: Float32Array;
  readonly kvHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
}

/** Where the token at `position` of a sequence lies among all tokens of the cache. */
export function slotOf(pageTable: Int32Array, position: number): number {
  return pageTable[Math.floor(position / PAGE_TOKENS)] * PAGE_TOKENS + position % PAGE_TOKENS;
}

/**
 * Softmax attention of one head of one token over the last `window` of positions 0..position: `out`
 * gets sum_p softmax_p(scale * q . key_p) value_p. A `sink` is one more score, with the value 0.
 */
export function attendHead(
  cache: LayerCache,
  options: {
    q: Float32Array;
    kvHead: number;
    scale: number;
    pageTable: Int32Array;
    position: number;
    window: number;
    sink: number | undefined;
    out: Float32Array;
  },
): void {
  const { keys, values, kvHeads, keyDim, valueDim } = cache;
  const { q, kvHead, scale, pageTable, position, window, sink = -Infinity, out } = options;
  const first = Math.max(0, position + 1 - window);
  const scores = new Float64Array(position + 1);
  let largest = sink;
  for (let p = first; p <= position; p++) {
    const base = (slotOf(pageTable, p) * kvHeads + kvHead) * keyDim;
    let score = 0;
    for (let i = 0; i < keyDim; i++) score += q[i] * keys[base + i];
    scores[p] = score * scale;
    largest = Math.max(largest, scores[p]);
  }
  let total = Math.exp(sink - largest);
  const sums = new Float64Array(valueDim);
  for (let p = first; p <= position; p++) {
    const base = (slotOf(pageTable, p) * kvHeads + kvHead) * valueDim;
    const weight = Math.exp(scores[p] - largest);
    total += weight;
    for (let i = 0; i < valueDim; i++) sums[i] += weight * values[base + i];
  }
  for (let i = 0; i < valueDim; i++) out[i] = sums[i] / total;
}
