/** What the ops of multi-head latent attention mean, on plain arrays (DeepSeek-V2, section 2.1). */

import { dot, type Matrix, slotOf } from "./ops.ts";

/** What a layer keeps of its tokens: [pages, PAGE_TOKENS, latentDim + ropeDim]. */
export interface LatentLayer {
  readonly tokens: Float32Array;
  readonly latentDim: number;
  readonly ropeDim: number;
}

/** out[h] = weight[h] x[h] for one row, `weight` being the heads' matrices one below the other. */
export function headLinearRow(
  weight: Matrix,
  options: { x: Float32Array; xStride: number; heads: number; out: Float32Array },
): void {
  const { x, xStride, heads, out } = options;
  const outDim = weight.rows / heads;
  for (let row = 0; row < weight.rows; row++) {
    out[row] = dot(weight, { row, x, offset: Math.floor(row / outDim) * xStride });
  }
}

/**
 * Attention of one head of one token over positions 0..position in the absorbed form: `out` gets
 * sum_p softmax_p(scale * (latentQuery . latent_p + ropeQuery . ropeKey_p)) latent_p.
 */
export function attendLatentHead(
  { tokens, latentDim, ropeDim }: LatentLayer,
  options: {
    latentQuery: Float32Array;
    ropeQuery: Float32Array;
    scale: number;
    pageTable: Int32Array;
    position: number;
    out: Float32Array;
  },
): void {
  const { latentQuery, ropeQuery, scale, pageTable, position, out } = options;
  const baseOf = (p: number) => slotOf(pageTable, p) * (latentDim + ropeDim);
  const scores = new Float64Array(position + 1);
  for (let p = 0; p <= position; p++) {
    const base = baseOf(p);
    let score = 0;
    for (let i = 0; i < latentDim; i++) score += latentQuery[i] * tokens[base + i];
    for (let i = 0; i < ropeDim; i++) score += ropeQuery[i] * tokens[base + latentDim + i];
    scores[p] = score * scale;
  }
  const largest = scores.reduce((most, score) => Math.max(most, score), -Infinity);
  const sums = new Float64Array(latentDim);
  let total = 0;
  for (let p = 0; p <= position; p++) {
    const base = baseOf(p);
    const weight = Math.exp(scores[p] - largest);
    total += weight;
    for (let i = 0; i < latentDim; i++) sums[i] += weight * tokens[base + i];
  }
  for (let i = 0; i < latentDim; i++) out[i] = sums[i] / total;
}
