/** Any tensor type to float32: what the types mean, bit for bit as ggml computes it. */

import { FormatError } from "../errors.ts";
import {
  dequantizeQ4_0,
  dequantizeQ4_1,
  dequantizeQ5_0,
  dequantizeQ5_1,
  dequantizeQ8_0,
  dequantizeQ8_1,
} from "./classic.ts";
import {
  dequantizeIQ4_NL,
  dequantizeIQ4_XS,
  dequantizeMXFP4,
  dequantizeNVFP4,
} from "./codebook.ts";
import { dequantizeF8_E4M3 } from "./float8.ts";
import { f16ToF32 } from "./half.ts";
import {
  dequantizeIQ1_M,
  dequantizeIQ1_S,
  dequantizeIQ2_S,
  dequantizeIQ2_XS,
  dequantizeIQ2_XXS,
  dequantizeIQ3_S,
  dequantizeIQ3_XXS,
} from "./iq_quants.ts";
import {
  dequantizeQ2_K,
  dequantizeQ3_K,
  dequantizeQ4_K,
  dequantizeQ5_K,
  dequantizeQ6_K,
} from "./k_quants.ts";
import { dequantizeTQ1_0, dequantizeTQ2_0 } from "./ternary.ts";
import { TENSOR_TYPES, type TensorType } from "./types.ts";

type Dequantizer = (bytes: Uint8Array, out: Float32Array) => void;

const DEQUANTIZERS: Readonly<Record<TensorType, Dequantizer>> = Object.freeze({
  F32: copyF32,
  F16: widenF16,
  BF16: widenBf16,
  Q4_0: dequantizeQ4_0,
  Q4_1: dequantizeQ4_1,
  Q5_0: dequantizeQ5_0,
  Q5_1: dequantizeQ5_1,
  Q8_0: dequantizeQ8_0,
  Q8_1: dequantizeQ8_1,
  Q2_K: dequantizeQ2_K,
  Q3_K: dequantizeQ3_K,
  Q4_K: dequantizeQ4_K,
  Q5_K: dequantizeQ5_K,
  Q6_K: dequantizeQ6_K,
  IQ2_XXS: dequantizeIQ2_XXS,
  IQ2_XS: dequantizeIQ2_XS,
  IQ3_XXS: dequantizeIQ3_XXS,
  IQ1_S: dequantizeIQ1_S,
  IQ4_NL: dequantizeIQ4_NL,
  IQ3_S: dequantizeIQ3_S,
  IQ2_S: dequantizeIQ2_S,
  IQ4_XS: dequantizeIQ4_XS,
  IQ1_M: dequantizeIQ1_M,
  TQ1_0: dequantizeTQ1_0,
  TQ2_0: dequantizeTQ2_0,
  MXFP4: dequantizeMXFP4,
  NVFP4: dequantizeNVFP4,
  F8_E4M3: dequantizeF8_E4M3,
});

/**
 * Fills `out` with the values of whole blocks in the file's layout. Throws FormatError unless `out`
 * is a whole number of blocks long and the bytes are exactly theirs.
 */
export function dequantize(type: TensorType, bytes: Uint8Array, out: Float32Array): void {
  const { blockValues, blockBytes } = TENSOR_TYPES[type];
  if (out.length % blockValues !== 0) {
    throw FormatError.of(
      `dequantise ${type}`,
      "the number of values",
      out.length,
      `a multiple of ${blockValues}`,
    );
  }
  const wanted = (out.length / blockValues) * blockBytes;
  if (bytes.length !== wanted) {
    throw FormatError.of(`dequantise ${type}`, "the number of bytes", bytes.length, String(wanted));
  }
  DEQUANTIZERS[type](bytes, out);
}

function copyF32(bytes: Uint8Array, out: Float32Array): void {
  new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes);
}

function widenF16(bytes: Uint8Array, out: Float32Array): void {
  for (let i = 0; i < out.length; i++) out[i] = f16ToF32(bytes[2 * i] | (bytes[2 * i + 1] << 8));
}

/** A bfloat16 is the upper half of a float32. */
function widenBf16(bytes: Uint8Array, out: Float32Array): void {
  const bits = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < out.length; i++) bits[i] = (bytes[2 * i] << 16) | (bytes[2 * i + 1] << 24);
}
