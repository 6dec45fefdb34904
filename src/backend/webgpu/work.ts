/**
 * What a kernel reads of weights and computes, for benchmarks: products' own bindings, parameters and
 * labels tell it. Of other kernels nothing is known here.
 */

import type { Dispatch } from "./kernel.ts";

export interface Work {
  /** Bytes of weights. */
  readonly bytes: number;
  /** Multiplications and additions. */
  readonly operations: number;
}

/** `matrixVector Q8_0 256+64x1024`: rows of each output, and columns. */
const PRODUCT = /^(matrixVector|matrixMatrix|integer tiles) .* (\d+(?:\+\d+)*)x(\d+)$/;

/** A plane of matrix M of output I is bound as `wIM_q` or `wIM_s`; there are two matrices at most. */
const PLANE = /^w(\d+)([01])_(q|s)$/;

/** Null where it is not known. */
export function workOf(
  { label, bindings, params }: Pick<Dispatch, "label" | "bindings" | "params">,
): Work | null {
  const product = PRODUCT.exec(label);
  const tokens = params.rows;
  if (product === null || typeof tokens !== "number") return null;
  const rows = product[2].split("+").map(Number);
  const cols = Number(product[3]);
  let [bytes, values] = [0, 0];
  for (const { name, size } of bindings) {
    const plane = PLANE.exec(name);
    if (plane === null) continue;
    bytes += size ?? 0;
    if (plane[3] === "q") values += (rows[Number(plane[1])] ?? 0) * cols;
  }
  return values === 0 ? null : { bytes, operations: 2 * values * tokens };
}
