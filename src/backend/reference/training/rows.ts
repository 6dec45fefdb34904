/** What the backward pass means of ops that work on rows by themselves, on plain arrays. */

import { normalise, type NormValues, rotateHead } from "../ops.ts";

/** d silu(x) / dx = sigmoid(x) (1 + x (1 - sigmoid(x))) */
export function siluSlope(x: number): number {
  const sigmoid = 1 / (1 + Math.exp(-x));
  return sigmoid * (1 + x * (1 - sigmoid));
}

export function silu(x: number): number {
  return x / (1 + Math.exp(-x));
}

/**
 * Of y = x / rms(x) * weight, for one row: gradient(x_i) = r (w_i g_i - x_i r^2 mean(w g x)), where
 * r = 1 / rms(x); the gradient of the weight, g_i x_i r, is added to `weightSums`.
 */
export function normBackward(
  norm: NormValues,
  options: {
    x: Float32Array;
    gradient: Float32Array;
    /** May be `gradient`. */
    out: Float32Array;
    accumulate: boolean;
    weightSums: Float64Array;
  },
): void {
  const { weight, eps } = norm;
  const { x, gradient, out, accumulate, weightSums } = options;
  const count = weight.length;
  let squares = 0;
  let product = 0;
  for (let i = 0; i < count; i++) {
    squares += x[i] * x[i];
    product += weight[i] * gradient[i] * x[i];
  }
  const r = 1 / Math.sqrt(squares / count + eps);
  const shared = r * r * product / count;
  for (let i = 0; i < count; i++) {
    weightSums[i] += gradient[i] * x[i] * r;
    const value = r * (weight[i] * gradient[i] - x[i] * shared);
    out[i] = accumulate ? out[i] + value : value;
  }
}

/** The gradient of what a head was rotated from, in place: the rotation the other way round. */
export function rotateBack(
  head: Float32Array,
  options: { cosSin: Float32Array; pairing: "halves" | "interleaved" },
): void {
  const { cosSin, pairing } = options;
  const back = cosSin.map((value, i) => i < cosSin.length / 2 ? value : -value);
  rotateHead(head, { cosSin: back, pairing });
}

/** What latent attention keeps of a token: its latent normalised, its rotary key rotated. */
export function latentToken(
  norm: NormValues,
  options: {
    kv: Float32Array;
    cosSin: Float32Array;
    pairing: "halves" | "interleaved";
    out: Float32Array;
  },
): void {
  const { kv, cosSin, pairing, out } = options;
  out.set(kv);
  normalise(norm, { x: out, offset: 0, out });
  rotateHead(out.subarray(norm.weight.length), { cosSin, pairing });
}
