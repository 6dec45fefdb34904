/** Who makes the steps of a phase: a trainer by itself, or members of a grid. */

import type { Slot } from "../backend/training.ts";
import type { BatchShape, TrainingSequence } from "./batch.ts";

/** What a step has done, all sums over its micro-batches. */
export interface StepTotals {
  readonly loss: number;
  readonly balance: number;
  readonly tokens: number;
  /** Of tokens with a target: means of the k3 estimate, of the share that was clipped, and of ratios. */
  readonly kl: number;
  readonly clipFraction: number;
  readonly ratio: number;
  /** Of the last update. */
  readonly gradientNorm: number;
  readonly updates: number;
  readonly skipped: number;
  readonly lossScale: number;
}

export interface StepTrainer {
  /** Of a micro-batch. */
  readonly shape: BatchShape;
  /** One step: the gradients of all micro-batches, then an update. */
  step(
    microBatches: readonly (readonly TrainingSequence[])[],
    options: { rate: number; biasRate?: number },
  ): void | Promise<void>;
  /** Waits for everything submitted; what the step so far has summed up. */
  totals(): Promise<StepTotals>;
  /** As `totals`; how many tokens of the step chose each expert, gate by gate. */
  expertCounts(): Promise<Float32Array[]>;
  /** Brings these slots, and the clock, to the back end that answers and state are taken from. */
  collect(slots: readonly Slot[]): Promise<void>;
  /** The reverse: steps go on from what that back end holds. */
  deliver(slots: readonly Slot[]): Promise<void>;
}
