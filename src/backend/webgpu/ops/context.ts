/** What an op needs to record itself. */

import type { ActivationPrecision } from "../../backend.ts";
import type { Dispatch } from "../kernel.ts";
import type { QuantizedRows } from "./quantize.ts";

export interface OpContext {
  /** Adds a dispatch, which runs after those before it. */
  run(dispatch: Dispatch): void;
  /** Room that lives within one op, shared by all that ask by the same name. */
  scratch(name: string, bytes: number): GPUBuffer;
  /** Rows that an op before has rounded, where neither they nor what was made of them has changed. */
  readonly rounded: Map<GPUBuffer, QuantizedRows>;
  /** Storage buffers that a kernel may see. */
  readonly maxBindings: number;
  /** How activations enter products with weights that are integers under scales. */
  readonly activations: ActivationPrecision;
  /** Whether WGSL has a product of four packed bytes here. */
  readonly packedDot: boolean;
  /** Whether kernels may have numbers of type f16. */
  readonly halves: boolean;
}

/** The same, of ops that look something up. */
export interface TableContext extends OpContext {
  /** Words that never change, in memory that all who ask by the same name share. */
  table(name: string, words: Uint32Array<ArrayBuffer>): GPUBuffer;
}
