/**
 * The two products of a matrix's backward pass, for rows that lie anywhere. Sums run in double precision;
 * what a backend reads in two bytes is rounded first.
 */

import type { Matrix } from "../ops.ts";

/** Rows of numbers: row i begins at `start(i)`. */
export interface Rows {
  readonly values: Float32Array;
  start(row: number): number;
}

/** Rows of this width, one after the other. */
export function rowsOf(values: Float32Array, width: number): Rows {
  return { values, start: (row) => row * width };
}

/** sums[i] += factor(i) * (gradient[i] W), for `count` rows; sums [count, weight.cols]. */
export function addInputGradient(
  weight: Matrix,
  options: {
    gradient: Rows;
    factor: (row: number) => number;
    round: (value: number) => number;
    count: number;
    sums: Float64Array;
  },
): void {
  const { gradient, factor, round, count, sums } = options;
  const { rows, cols, values } = weight;
  for (let i = 0; i < count; i++) {
    const start = gradient.start(i);
    for (let r = 0; r < rows; r++) {
      const g = round(factor(i) * gradient.values[start + r]);
      if (g === 0) continue;
      for (let c = 0; c < cols; c++) sums[i * cols + c] += g * values[r * cols + c];
    }
  }
}

/** into[r, c] += sum_i factor(i) * gradient[i, r] * x[i, c], for `count` rows; into [rows, cols]. */
export function addWeightGradient(
  into: { values: Float32Array; rows: number; cols: number },
  options: {
    gradient: Rows;
    x: Rows;
    factor: (row: number) => number;
    round: (value: number) => number;
    count: number;
  },
): void {
  const { gradient, x, factor, round, count } = options;
  const { values, rows, cols } = into;
  const sums = new Float64Array(cols);
  for (let r = 0; r < rows; r++) {
    sums.fill(0);
    for (let i = 0; i < count; i++) {
      const g = round(factor(i) * gradient.values[gradient.start(i) + r]);
      if (g === 0) continue;
      const start = x.start(i);
      for (let c = 0; c < cols; c++) sums[c] += g * round(x.values[start + c]);
    }
    for (let c = 0; c < cols; c++) values[r * cols + c] += sums[c];
  }
}

/** into[r] += sum_i factor(i) * gradient[i, r] */
export function addBiasGradient(
  into: Float32Array,
  options: { gradient: Rows; factor: number; count: number },
): void {
  const { gradient, factor, count } = options;
  for (let r = 0; r < into.length; r++) {
    let sum = 0;
    for (let i = 0; i < count; i++) sum += gradient.values[gradient.start(i) + r];
    into[r] += factor * sum;
  }
}

/** Writes sums to a target, or adds them to what is there. */
export function deliver(
  sums: ArrayLike<number>,
  { out, accumulate }: { out: Float32Array; accumulate: boolean },
): void {
  for (let i = 0; i < sums.length; i++) out[i] = accumulate ? out[i] + sums[i] : sums[i];
}
