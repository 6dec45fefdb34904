/** Learning rates over a run. */

import { OptionError } from "../errors.ts";

export interface RateSchedule {
  /** The highest rate. */
  readonly peak: number;
  /** Steps in which the rate rises from 0 to the peak. */
  readonly warmup: number;
  /** Steps of the run, the warm-up's included. */
  readonly steps: number;
  /** How it falls after the warm-up: not, in a line, or as half a cosine (Loshchilov & Hutter 2017). */
  readonly decay: "constant" | "linear" | "cosine";
  /** The rate at the end, as a part of the peak; 0 by default. */
  readonly floor?: number;
}

/** The rate of a step, counted from 0; after the last one it stays. */
export function rateAt(schedule: RateSchedule, step: number): number {
  const { peak, warmup, steps, decay, floor = 0 } = schedule;
  if (warmup > steps) {
    throw new OptionError(
      `cannot plan a learning rate: the warm-up is ${warmup} steps, must be at most all ${steps}`,
    );
  }
  if (step < warmup) return peak * (step + 1) / warmup;
  if (decay === "constant") return peak;
  const part = Math.min(1, (step - warmup) / Math.max(1, steps - warmup));
  const left = decay === "linear" ? 1 - part : (1 + Math.cos(Math.PI * part)) / 2;
  return peak * (floor + (1 - floor) * left);
}
