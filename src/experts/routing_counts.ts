/** How often each expert was chosen, and how likely a token is to choose it again. */

import type { Trace } from "./trace.ts";

/** Choices of one layer's experts, by their ids. */
export interface LayerCounts {
  /** The layer's number in the model. */
  readonly layer: number;
  readonly counts: ArrayLike<number>;
}

/** What a trace's gates chose, prompts and answers together, a layer an entry. */
export function countTrace(
  { layers, experts, documents }: Pick<Trace, "layers" | "experts" | "documents">,
): LayerCounts[] {
  const all = layers.map((layer) => ({ layer, counts: new Float64Array(experts) }));
  for (const { steps } of documents) {
    for (const step of steps) {
      for (const [i, ids] of step.experts.entries()) {
        for (const id of ids) all[i].counts[id]++;
      }
    }
  }
  return all;
}

/**
 * The probability of each expert to be among the `topK` that a token chooses. One choice more than was
 * counted is given to each: an expert that some prompts left out is not one that nobody chooses. Without
 * counts all are equally likely.
 */
export function choiceProbabilities(
  { experts, topK, counts }: { experts: number; topK: number; counts?: ArrayLike<number> },
): Float64Array {
  const weights = Float64Array.from({ length: experts }, (_, id) => 1 + (counts?.[id] ?? 0));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => Math.min(1, topK * weight / sum));
}

/** Of a step of so many rows: the probability that at least one of them chooses an expert. */
export function chosenByAny(probability: number, rows: number): number {
  return 1 - (1 - probability) ** rows;
}
