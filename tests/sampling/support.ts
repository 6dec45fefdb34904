/** Statistics and straightforward twins of the sampling code. */

import { Candidates } from "../../src/sampling/candidates.ts";
import { Sampler } from "../../src/sampling/sampler.ts";
import { NEUTRAL_SAMPLING, type SamplingParams } from "../../src/sampling/types.ts";

export function sampler(
  params: Partial<SamplingParams>,
  { vocabSize, prompt = [] }: { vocabSize: number; prompt?: number[] },
): Sampler {
  return new Sampler({
    params: { ...NEUTRAL_SAMPLING, ...params },
    prompt,
    candidates: new Candidates(vocabSize),
  });
}

/** Draws `count` tokens from the same logits, without penalties' memory mattering. */
export function frequencies(
  logits: readonly number[],
  { params, count }: { params: Partial<SamplingParams>; count: number },
): number[] {
  const source = sampler({ seed: 12345, ...params }, { vocabSize: logits.length });
  const seen = logits.map(() => 0);
  for (let i = 0; i < count; i++) seen[source.sample(Float32Array.from(logits))]++;
  return seen;
}

/** A share as filters have it. */
export function shareOf(share: number): number {
  return Math.round(share * 2 ** 32);
}

export function softmax(logits: readonly number[]): number[] {
  const max = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp(logit - max));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

/** Token ids by descending logit, the lowest id first among equals. */
export function ranking(logits: readonly number[]): number[] {
  return logits.map((_, id) => id).sort((a, b) => logits[b] - logits[a] || a - b);
}

/** Probabilities after keeping `tokens` only. */
export function restrict(probabilities: readonly number[], tokens: readonly number[]): number[] {
  const keep = new Set(tokens);
  const total = tokens.reduce((sum, token) => sum + probabilities[token], 0);
  return probabilities.map((p, token) => keep.has(token) ? p / total : 0);
}

/**
 * Pearson's statistic over the tokens with a probability, in standard deviations above its mean
 * (Wilson and Hilferty's cube-root normal approximation). Infinity where an impossible token occurred.
 */
export function chiSquareDeviation(
  observed: readonly number[],
  probabilities: readonly number[],
): number {
  const count = observed.reduce((sum, n) => sum + n, 0);
  let statistic = 0;
  let degrees = -1;
  for (let token = 0; token < observed.length; token++) {
    const expected = probabilities[token] * count;
    if (expected === 0) {
      if (observed[token] > 0) return Infinity;
      continue;
    }
    statistic += (observed[token] - expected) ** 2 / expected;
    degrees++;
  }
  const spread = 2 / (9 * degrees);
  return (Math.cbrt(statistic / degrees) - (1 - spread)) / Math.sqrt(spread);
}

/** Logits of a vocabulary with a bell-shaped spread, the same on every run. */
export function bellLogits(vocabSize: number, spread: number): Float32Array {
  let state = 1;
  const uniform = () => (state = Math.imul(state, 48271) % 2147483647 >>> 0) / 2 ** 32;
  return Float32Array.from({ length: vocabSize }, () => {
    let sum = 0;
    for (let i = 0; i < 6; i++) sum += uniform();
    return (sum - 3) * spread;
  });
}
