/** float32 to the tensor types that files are written in. */

import { quantizeQ5_0, quantizeQ8_0 } from "./classic.ts";
import { f32ToBf16, f32ToF16 } from "./half.ts";
import { quantizeQ4_K, quantizeQ6_K } from "./quantize_k.ts";
import { TENSOR_TYPES } from "./types.ts";

type Quantizer = (values: Float32Array) => Uint8Array<ArrayBuffer>;

const QUANTIZERS = Object.freeze({
  F32: (values) => new Uint8Array(Float32Array.from(values).buffer),
  F16: (values) => halves(values, f32ToF16),
  BF16: (values) => halves(values, f32ToBf16),
  Q8_0: quantizeQ8_0,
  Q5_0: quantizeQ5_0,
  Q4_K: quantizeQ4_K,
  Q6_K: quantizeQ6_K,
}) satisfies Readonly<Record<string, Quantizer>>;

/** A type that tensors can be written in. */
export type WritableType = keyof typeof QUANTIZERS;

/** The bytes of whole blocks of finite values. Throws RangeError for a part of a block. */
export function quantize(type: WritableType, values: Float32Array): Uint8Array<ArrayBuffer> {
  const { blockValues } = TENSOR_TYPES[type];
  if (values.length % blockValues !== 0) {
    throw new RangeError(
      `cannot quantise to ${type}: the length is ${values.length}, must be a multiple of ${blockValues}`,
    );
  }
  return QUANTIZERS[type](values);
}

function halves(values: Float32Array, bitsOf: (value: number) => number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(values.length * 2);
  for (let i = 0; i < values.length; i++) {
    const bits = bitsOf(values[i]);
    bytes[2 * i] = bits & 255;
    bytes[2 * i + 1] = bits >> 8;
  }
  return bytes;
}
