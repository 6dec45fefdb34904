/** A recorded forward pass of two backends: stretches on the device, cut where the host has a part in it. */

import type { Buffer, Plan } from "../backend.ts";
import type { Exchange } from "./exchange.ts";
import type { HybridExperts } from "./experts.ts";

export class HybridPlan implements Plan {
  readonly length: number;
  readonly stretches: readonly Stretch[];

  constructor(stretches: readonly Stretch[], length: number) {
    this.stretches = stretches;
    this.length = length;
  }
}

/** Ops of the device, and the mixture behind them. */
export interface Stretch {
  /** Null where there are none. */
  readonly before: Plan | null;
  /** Null at the end of a plan. */
  readonly mixture: SplitMixture | null;
}

/** A layer's `experts` op on both sides. */
export interface SplitMixture {
  readonly experts: HybridExperts;
  readonly rows: number;
  /** On the device: what the host reads. */
  readonly x: Buffer;
  readonly expertIds: Buffer;
  readonly weights: Buffer;
  readonly exchange: Exchange;
  /** What the device does without the host: whatever follows the gate, and its own experts. */
  readonly meanwhile: Plan | null;
  /** The experts that the device doesn't have. */
  readonly host: Plan;
  /** Adds the host's sums on the device. */
  readonly add: Plan;
}
