/**
 * What the backward pass of a gate means, on plain arrays: from the gradients of the chosen experts'
 * weights, and from the balance loss, to those of the logits. The choice itself has no gradient.
 */

import type { GateParams } from "../../backend.ts";

export interface GateWeights {
  readonly score: GateParams["score"];
  readonly normalise: boolean;
  readonly scale: number;
}

/** Scores of all experts of a row, not rounded; those of softmaxOfChosen are a softmax of the chosen. */
export function scoresOf(
  logits: Float64Array,
  { score, chosen }: { score: GateParams["score"]; chosen: Int32Array },
): Float64Array {
  if (score === "sigmoid") return logits.map((logit) => 1 / (1 + Math.exp(-logit)));
  const takesPart = score === "softmax"
    ? logits.map(() => 1)
    : logits.map((_, e) => chosen.includes(e) ? 1 : 0);
  const largest = logits.reduce((most, x, e) => takesPart[e] ? Math.max(most, x) : most, -Infinity);
  const powers = logits.map((x, e) => takesPart[e] ? Math.exp(x - largest) : 0);
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

/** The gradients of a row's scores from those of its chosen experts' weights. */
export function addWeightsBackward(
  { normalise, scale }: GateWeights,
  options: {
    scores: Float64Array;
    chosen: Int32Array;
    weightsGradient: Float32Array;
    scoresGradient: Float64Array;
  },
): void {
  const { scores, chosen, weightsGradient, scoresGradient } = options;
  if (!normalise) {
    chosen.forEach((e, j) => scoresGradient[e] += scale * weightsGradient[j]);
    return;
  }
  // w_j = s_j / S: dw_j / ds_i = (delta_ij - w_j) / S
  const total = chosen.reduce((sum, e) => sum + scores[e], 0) + 1e-20;
  const mean = chosen.reduce((sum, e, j) => sum + weightsGradient[j] * scores[e], 0) / total;
  chosen.forEach((e, j) => scoresGradient[e] += scale * (weightsGradient[j] - mean) / total);
}

/**
 * The row's share of the balance loss, `sum_i fractions[i] * s'_i` with `s'` the scores divided by their
 * sum; its gradient times `factor` is added.
 */
export function addBalance(
  scores: Float64Array,
  options: { fractions: Float64Array; factor: number; scoresGradient: Float64Array },
): number {
  const { fractions, factor, scoresGradient } = options;
  const total = scores.reduce((sum, score) => sum + score, 0);
  const mean = scores.reduce((sum, score, e) => sum + fractions[e] * score, 0) / total;
  for (const e of scores.keys()) scoresGradient[e] += factor * (fractions[e] - mean) / total;
  return mean;
}

/** The gradients of a row's logits from those of its scores, in place. */
export function scoresBackward(
  scores: Float64Array,
  { score, gradient }: { score: GateParams["score"]; gradient: Float64Array },
): void {
  if (score === "sigmoid") {
    for (const e of scores.keys()) gradient[e] *= scores[e] * (1 - scores[e]);
    return;
  }
  const mean = scores.reduce((sum, value, e) => sum + value * gradient[e], 0);
  for (const e of scores.keys()) gradient[e] = scores[e] * (gradient[e] - mean);
}

/**
 * f of each expert for the rows `start .. end`: experts / (topK * rows) * rows that chose it
 * (DeepSeek-V3, equation 18).
 */
export function fractionsOf(
  expertIds: Int32Array,
  { start, end, topK, experts }: { start: number; end: number; topK: number; experts: number },
): Float64Array {
  const fractions = new Float64Array(experts);
  const each = experts / (topK * (end - start));
  for (let i = start * topK; i < end * topK; i++) fractions[expertIds[i]] += each;
  return fractions;
}
