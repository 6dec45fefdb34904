/** Ternary types: 256 values of -d, 0 or d a block. */

import { f16ToF32 } from "./half.ts";

/** Powers of three that move a digit to the top of its byte, modulo 256. */
const POWERS = new Uint8Array([1, 3, 9, 27, 81]);

/**
 * 48 bytes of five base-3 digits, 4 bytes of four, d. A byte holds its digits as a fraction of 256:
 * multiplying by 3^n drops n digits, and the next one is the product's share of 256 in thirds.
 */
export function dequantizeTQ1_0(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 54, o += 256) {
    const d = f16ToF32(bytes[at + 52] | (bytes[at + 53] << 8));
    let next = o;
    // Three runs of bytes; within a run the first digits of all bytes come first.
    for (const [start, length, digits] of [[0, 32, 5], [32, 16, 5], [48, 4, 4]]) {
      for (let n = 0; n < digits; n++) {
        for (let m = 0; m < length; m++) {
          const rest = (bytes[at + start + m] * POWERS[n]) & 255;
          out[next++] = (((rest * 3) >> 8) - 1) * d;
        }
      }
    }
  }
}

/** 64 bytes of 2-bit values, d. */
export function dequantizeTQ2_0(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 66, o += 256) {
    const d = f16ToF32(bytes[at + 64] | (bytes[at + 65] << 8));
    for (let s = 0; s < 8; s++) {
      const q = at + (s >> 2) * 32;
      const shift = (s & 3) * 2;
      const base = o + s * 32;
      for (let m = 0; m < 32; m++) out[base + m] = (((bytes[q + m] >> shift) & 3) - 1) * d;
    }
  }
}
