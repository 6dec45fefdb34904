/** An op of the forward pass as the tape keeps it. */

import type { Buffer, Experts, KvCache, LatentCache, Weight } from "../../backend/backend.ts";
import type { Gradients } from "./gradients.ts";
import type { Change, Instruction, Step, Value } from "./value.ts";

/** A gate as the trace has met it. */
export interface TracedGate {
  readonly experts: number;
  readonly topK: number;
  readonly correctionBias: Weight | null;
}

/** What of a model an op reads. */
export interface Uses {
  /** Those that are trained: no correction biases. */
  readonly weights: readonly Weight[];
  readonly experts?: Experts;
  readonly gate?: TracedGate;
}

export interface Node {
  readonly forward: Step;
  /** The layer whose cache it writes; what tells where a layer is. */
  readonly layer?: number;
  /** Writes its part of the backward pass down. */
  backward(gradients: Gradients): void;
}

/** What rules ask of the trace that is being made. */
export interface Scope {
  /** The value that an op reads in this buffer. */
  read(buffer: Buffer): Value;
  /** The value that an op leaves there, in so many rows. */
  write(buffer: Buffer, options: { rows: number; recipe?: Value["recipe"] }): Value;
  /** Says that a value is what the buffer holds from here on. */
  put(buffer: Buffer, value: Value): void;
  /** The value before and after a change in place. */
  change(buffer: Buffer): Change;
  /** The cache that stands for the model's, of a single layer: attention follows at once. */
  kvCache(cache: KvCache): KvCache;
  latentCache(cache: LatentCache): LatentCache;
}

/** A node whose forward pass is one instruction. */
export function single(
  forward: Instruction,
  backward: (gradients: Gradients) => void,
): Node {
  return { forward: [forward], backward };
}
