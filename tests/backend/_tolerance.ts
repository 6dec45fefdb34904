/**
 * How far a backend's result may be from the exact one, derived from the inputs and the precision,
 * never from what happened to pass.
 *
 * Float32 sums: terms added in at least four lanes lose at most one unit roundoff per addition, each
 * of the sum of the terms' magnitudes. Quantised activations: rounding x to steps of s gives each term
 * an error w * e with e uniform in [-s/2, s/2], so a variance of w^2 s^2 / 12; the largest of some
 * hundred thousand such sums stays within six deviations, and their mean square within a third of
 * the expectation. A lost bit doubles the deviation and fails that.
 *
 * Products in half precision (`halves`: F16 weights, eight columns at a time): rounding a number to eleven
 * bits gives it an error that is uniform in half a unit of its last place to either side. So activations,
 * products and the sums of each eight products contribute what their size alone decides.
 */

import type { ActivationPrecision } from "../../src/backend/backend.ts";
import { TENSOR_TYPES, type TensorType } from "../../src/quant/types.ts";

/** Half the distance between 1 and the next float32. */
export const UNIT_ROUNDOFF = 2 ** -24;

/** How products round: by the precision of activations, or so and F16 weights in half precision. */
export type ProductPrecision = ActivationPrecision | "halves";

/** Steps on either side of zero that the largest value of a block is worth. */
const STEPS: Record<ProductPrecision, number> = {
  q8: 127,
  halves: 127,
  // A signed high byte and a full low byte.
  q16: 127 * 256,
  f32: Infinity,
};

/** Mean square errors may be this many times the expected ones (deviations 1.15 times). */
const MEAN_SQUARE_MARGIN = 1.33;

const DEVIATIONS = 6;

/** What one output may be off by. */
export interface Tolerance {
  /** Largest error of float32 arithmetic. */
  readonly rounding: number;
  /** Standard deviation of the error from quantised activations; 0 where they stay float. */
  readonly deviation: number;
}

/** The error of adding `terms` float32 products whose magnitudes sum to `magnitude`. */
export function sumRounding(terms: number, magnitude: number): number {
  return UNIT_ROUNDOFF * (terms / 4 + 16) * magnitude;
}

/** The tolerance of one output of a linear op. */
export function dotTolerance(
  options: {
    type: TensorType;
    precision: ProductPrecision;
    /** One row of the weight. */
    weight: Float32Array;
    /** One input row, normalised where the op does that. */
    x: Float64Array;
    /** Magnitude of what is added: bias, previous content. */
    added: number;
  },
): Tolerance {
  const { type, precision, weight, x, added } = options;
  const { kernel, blockValues } = TENSOR_TYPES[type];
  // Integer kernels add scaled integers and offsets apart: a term may be as large as the row's largest.
  let largest = 0;
  for (const w of weight) largest = Math.max(largest, Math.abs(w));
  let magnitude = added;
  for (let i = 0; i < x.length; i++) {
    magnitude += Math.abs(x[i]) * (kernel === "float" ? Math.abs(weight[i]) : 2 * largest);
  }
  const rounding = sumRounding(x.length, magnitude);
  if (type === "F16" && precision === "halves") {
    return { rounding, deviation: Math.sqrt(halfVariance(weight, x)) };
  }
  if (kernel !== "integer" || precision === "f32") return { rounding, deviation: 0 };
  let variance = 0;
  for (let start = 0; start < x.length; start += blockValues) {
    let peak = 0;
    let squares = 0;
    for (let i = start; i < start + blockValues; i++) {
      peak = Math.max(peak, Math.abs(x[i]));
      squares += weight[i] * weight[i];
    }
    variance += squares * (peak / STEPS[precision]) ** 2 / 12;
  }
  return { rounding, deviation: Math.sqrt(variance) };
}

/** Values of a block, which share a factor, and of a sum in half precision. */
const HALF_BLOCK = 32;
const HALF_SUM = 8;

/** The variance of a product in half precision. */
function halfVariance(weight: Float32Array, x: Float64Array): number {
  let variance = 0;
  for (let start = 0; start < x.length; start += HALF_BLOCK) {
    const end = Math.min(x.length, start + HALF_BLOCK);
    let peak = 0;
    for (let i = start; i < end; i++) peak = Math.max(peak, Math.abs(x[i]));
    if (peak === 0) continue;
    const factor = 2 ** (Math.floor(Math.log2(peak)) + 1);
    let sum = 0;
    for (let i = start; i < end; i++) {
      const n = x[i] / factor;
      const term = weight[i] * n;
      const first = (i - start) % HALF_SUM === 0;
      sum = first ? term : sum + term;
      // An operation for product and sum may round each. The first sum is the product itself.
      const rounded = halfRounding(sum) + (first ? 0 : halfRounding(term));
      variance += factor ** 2 * (weight[i] ** 2 * halfRounding(n) + rounded);
    }
  }
  return variance;
}

/** The variance of rounding to half precision; what has fewer bits there may become zero. */
function halfRounding(value: number): number {
  const magnitude = Math.abs(value);
  if (magnitude < 2 ** -14) return magnitude ** 2;
  return 2 ** (2 * Math.floor(Math.log2(magnitude)) - 20) / 12;
}

/** Collects errors against tolerances and says what is wrong with them, if anything. */
export class ErrorTally {
  readonly #what: string;
  #count = 0;
  #squares = 0;
  #expectedSquares = 0;
  #worst: { ratio: number; text: string } = { ratio: 0, text: "" };

  constructor(what: string) {
    this.#what = what;
  }

  add(actual: number, options: { expected: number; tolerance: Tolerance; at: string }): void {
    const { expected, tolerance, at } = options;
    const error = Math.abs(actual - expected);
    const bound = tolerance.rounding + DEVIATIONS * tolerance.deviation;
    // A NaN must not pass for a small error.
    const ratio = error <= bound ? error / bound : Infinity;
    if (!(ratio <= this.#worst.ratio) && error !== 0) {
      const text = `${at} is ${actual}, must be within ${bound} of ${expected}`;
      this.#worst = { ratio, text };
    }
    this.#count++;
    this.#squares += error * error;
    this.#expectedSquares += tolerance.deviation ** 2 + tolerance.rounding ** 2;
  }

  /** Throws where an output was out of bounds, or all together too noisy. */
  finish(): void {
    if (this.#worst.ratio > 1) throw new Error(`${this.#what}: ${this.#worst.text}`);
    // Fewer outputs than this scatter too much for a statement about their mean.
    if (this.#count >= 400 && this.#squares > MEAN_SQUARE_MARGIN * this.#expectedSquares) {
      const seen = Math.sqrt(this.#squares / this.#count);
      const right = Math.sqrt(this.#expectedSquares / this.#count);
      throw new Error(`${this.#what}: the rms error is ${seen}, must be about ${right}`);
    }
  }
}
