/**
 * Four-bit types whose nibbles index a table: the non-linear IQ4 types and the FP4 (E2M1) types.
 * Functions read as many blocks as `out` holds values for.
 */

import { f16ToF32 } from "./half.ts";

/** The levels of IQ4_NL and IQ4_XS. */
const NON_LINEAR = new Int8Array([
  -127,
  -104,
  -83,
  -65,
  -49,
  -35,
  -22,
  -10,
  1,
  13,
  25,
  38,
  53,
  69,
  89,
  113,
]);

/** E2M1 values, doubled so that they are integers; scales are halved in return. Both zeros are +0. */
const E2M1_DOUBLED = new Int8Array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]);

/** Half the value of each unsigned E4M3 byte (bias 7); 0x7f is NaN by its format and 0 here. */
const UE4M3_HALVED = buildUe4m3();

/** d (f16), 16 bytes of nibbles. */
export function dequantizeIQ4_NL(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 18, o += 32) {
    const d = scaleAt(bytes, at);
    for (let j = 0; j < 16; j++) {
      const q = bytes[at + 2 + j];
      out[o + j] = d * NON_LINEAR[q & 15];
      out[o + 16 + j] = d * NON_LINEAR[q >> 4];
    }
  }
}

/** d (f16), upper bit pairs of 8 scales (u16), their low nibbles (4 bytes), 128 bytes of nibbles. */
export function dequantizeIQ4_XS(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 136, o += 256) {
    const d = scaleAt(bytes, at);
    const upper = bytes[at + 2] | (bytes[at + 3] << 8);
    for (let s = 0; s < 8; s++) {
      const low = (bytes[at + 4 + (s >> 1)] >> ((s & 1) * 4)) & 15;
      const scale = Math.fround(d * ((low | (((upper >> (2 * s)) & 3) << 4)) - 32));
      const q = at + 8 + s * 16;
      const base = o + s * 32;
      for (let j = 0; j < 16; j++) {
        out[base + j] = scale * NON_LINEAR[bytes[q + j] & 15];
        out[base + 16 + j] = scale * NON_LINEAR[bytes[q + j] >> 4];
      }
    }
  }
}

/** OCP MXFP4: a power of two (E8M0), 16 bytes of E2M1 pairs; low nibbles are the first half. */
export function dequantizeMXFP4(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 17, o += 32) {
    // Halved, since the table is doubled; 2^-128 is a float32 subnormal and still exact.
    const d = 2 ** (bytes[at] - 128);
    for (let j = 0; j < 16; j++) {
      const q = bytes[at + 1 + j];
      out[o + j] = d * E2M1_DOUBLED[q & 15];
      out[o + 16 + j] = d * E2M1_DOUBLED[q >> 4];
    }
  }
}

/** NVFP4: four unsigned E4M3 scales, each for 16 values, then 8 bytes of E2M1 pairs for each. */
export function dequantizeNVFP4(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 36, o += 64) {
    for (let s = 0; s < 4; s++) {
      const d = UE4M3_HALVED[bytes[at + s] & 127];
      const q = at + 4 + s * 8;
      const base = o + s * 16;
      for (let j = 0; j < 8; j++) {
        out[base + j] = d * E2M1_DOUBLED[bytes[q + j] & 15];
        out[base + 8 + j] = d * E2M1_DOUBLED[bytes[q + j] >> 4];
      }
    }
  }
}

/** The half at a byte offset. */
function scaleAt(bytes: Uint8Array, at: number): number {
  return f16ToF32(bytes[at] | (bytes[at + 1] << 8));
}

function buildUe4m3(): Float32Array {
  const values = new Float32Array(128);
  for (let bits = 0; bits < 127; bits++) {
    const exponent = bits >> 3;
    const mantissa = bits & 7;
    const value = exponent === 0 ? mantissa * 2 ** -9 : (1 + mantissa / 8) * 2 ** (exponent - 7);
    values[bits] = value / 2;
  }
  return values;
}
