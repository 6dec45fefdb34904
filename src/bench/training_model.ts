/**
 * What the engines of `training_peers.ts` train, so that all train the same: a dense Llama, its tokens, the
 * update rule, and what a driver is asked and answers.
 */

import { FormatError } from "../errors.ts";
import { MARK } from "./wire.ts";

/** A Llama with as many heads of keys as of queries, and its step. */
export interface PeerModel {
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
  readonly intermediate: number;
  readonly vocabulary: number;
  /** Samples of a step, and tokens of each. */
  readonly samples: number;
  readonly length: number;
  readonly threads: number;
}

/** AdamW, with decay of matrices only, behind clipping by the norm of all gradients. */
export const RULE = Object.freeze({
  ...{ rate: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, maxNorm: 1 },
});

/** Token ids of a step, [samples][length]. */
export interface PeerTokens {
  readonly inputs: readonly (readonly number[])[];
  readonly targets: readonly (readonly number[])[];
}

/** A request to a driver: goes on training. The tokens of the first request are those of all steps. */
export interface TrainingRequest {
  readonly tokens: PeerTokens;
  readonly steps: number;
}

export interface TrainingTiming {
  readonly parameters: number;
  /** Mean cross-entropy of each step, before its update. */
  readonly losses: readonly number[];
  /** Of each step. */
  readonly seconds: readonly number[];
}

/** Reads a marked line's `training`; throws FormatError where it is something else. */
export function parseTraining(line: string): TrainingTiming {
  const refuse = () =>
    FormatError.of(
      "read a driver's answer",
      "the line",
      JSON.stringify(line.slice(0, 200)),
      `${MARK}{"training": {parameters, losses, seconds}}, numbers finite and not negative`,
    );
  if (!line.startsWith(MARK)) throw refuse();
  let value: TrainingTiming | undefined;
  try {
    value = JSON.parse(line.slice(MARK.length)).training;
  } catch {
    throw refuse();
  }
  const right = (number: unknown) => Number.isFinite(number) && (number as number) >= 0;
  const list = (numbers: unknown) => Array.isArray(numbers) && numbers.every(right);
  if (!value || !right(value.parameters) || !list(value.losses) || !list(value.seconds)) {
    throw refuse();
  }
  return value;
}

/** Shapes of all weights, matrices as [in, out]; the embedding table as [vocabulary, width]. */
export function matricesOf(
  { width, layers, intermediate, vocabulary }: PeerModel,
): Record<string, readonly number[]> {
  const shapes: Record<string, readonly number[]> = { embedding: [vocabulary, width] };
  for (let i = 0; i < layers; i++) {
    for (const name of ["query", "key", "value", "output"]) shapes[`${i}.${name}`] = [width, width];
    for (const name of ["gate", "up"]) shapes[`${i}.${name}`] = [width, intermediate];
    shapes[`${i}.down`] = [intermediate, width];
    for (const name of ["attentionNorm", "feedForwardNorm"]) shapes[`${i}.${name}`] = [width];
  }
  return { ...shapes, finalNorm: [width], head: [width, vocabulary] };
}
