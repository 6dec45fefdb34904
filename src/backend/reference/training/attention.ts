/**
 * What the backward pass of attention means, on plain arrays. With p = softmax(scale * q k) and
 * out = p v: dv = p dout, dp = dout v, ds = p (dp - dout out), dq = scale ds k, dk = scale ds q.
 */

/** Vectors of rows: that of a row and head begins at `start(row, head)`. */
export interface Heads {
  readonly values: Float32Array | Float64Array;
  start(row: number, head: number): number;
}

/** Vectors of `stride` values a head, of which those from `offset` on are meant. */
export function headsOf(
  values: Heads["values"],
  { heads, stride, offset = 0 }: { heads: number; stride: number; offset?: number },
): Heads {
  return { values, start: (row, head) => (row * heads + head) * stride + offset };
}

/** A part of queries and keys that adds to the scores; latent attention has two. */
export interface ScorePart {
  readonly dim: number;
  readonly q: Heads;
  readonly k: Heads;
  readonly qGradient: Heads;
  /** Added to. */
  readonly kGradient: Heads;
}

export interface AttentionBackward {
  readonly parts: readonly ScorePart[];
  readonly valueDim: number;
  readonly v: Heads;
  /** Added to; may be a part's `kGradient`. */
  readonly vGradient: Heads;
  readonly out: Heads;
  readonly outGradient: Heads;
  readonly heads: number;
  readonly kvHeads: number;
  readonly scale: number;
  readonly window: number;
}

/** Adds what one head of one row contributes; replaces the gradients of its queries. */
export function attentionBackwardHead(
  attention: AttentionBackward,
  { row, position, head }: { row: number; position: number; head: number },
): void {
  const { parts, valueDim, v, vGradient, out, outGradient, heads, kvHeads, scale } = attention;
  const kvHead = Math.floor(head / (heads / kvHeads));
  const start = row - position;
  const first = Math.max(0, position + 1 - attention.window);
  const count = position + 1 - first;
  const keyRow = (i: number) => start + first + i;
  const weights = softmaxOf(Float64Array.from({ length: count }, (_, i) => {
    let score = 0;
    for (const { dim, q, k } of parts) {
      const [from, to] = [q.start(row, head), k.start(keyRow(i), kvHead)];
      for (let c = 0; c < dim; c++) score += q.values[from + c] * k.values[to + c];
    }
    return score * scale;
  }));
  const [o, g] = [out.start(row, head), outGradient.start(row, head)];
  let mean = 0;
  for (let c = 0; c < valueDim; c++) mean += out.values[o + c] * outGradient.values[g + c];
  const sums = parts.map(({ dim }) => new Float64Array(dim));
  for (let i = 0; i < count; i++) {
    const [value, valueGradient] = [v.start(keyRow(i), kvHead), vGradient.start(keyRow(i), kvHead)];
    let slope = 0;
    for (let c = 0; c < valueDim; c++) slope += outGradient.values[g + c] * v.values[value + c];
    const scoreGradient = scale * weights[i] * (slope - mean);
    for (const [p, { dim, q, k, kGradient }] of parts.entries()) {
      const [from, to] = [q.start(row, head), k.start(keyRow(i), kvHead)];
      const into = kGradient.start(keyRow(i), kvHead);
      for (let c = 0; c < dim; c++) {
        sums[p][c] += scoreGradient * k.values[to + c];
        kGradient.values[into + c] += scoreGradient * q.values[from + c];
      }
    }
    for (let c = 0; c < valueDim; c++) {
      vGradient.values[valueGradient + c] += weights[i] * outGradient.values[g + c];
    }
  }
  for (const [p, { qGradient }] of parts.entries()) {
    qGradient.values.set(sums[p], qGradient.start(row, head));
  }
}

/** In place. */
function softmaxOf(scores: Float64Array): Float64Array {
  const largest = scores.reduce((most, score) => Math.max(most, score), -Infinity);
  let total = 0;
  for (let i = 0; i < scores.length; i++) {
    scores[i] = Math.exp(scores[i] - largest);
    total += scores[i];
  }
  for (let i = 0; i < scores.length; i++) scores[i] /= total;
  return scores;
}
