/**
 * What the engines of `training_peers.ts` train, so that all train the same: a dense Llama, its tokens, the
 * update rule, and what a driver is asked and answers.
 */

import { parseMarked } from "./wire.ts";

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

const TRAINING = { parameters: "number", losses: "numbers", seconds: "numbers" } as const;

/** Reads a marked line's `training`; throws FormatError where it is something else. */
export function parseTraining(line: string): TrainingTiming {
  return parseMarked<TrainingTiming>(line, { kind: "training", fields: TRAINING });
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
