/**
 * The k-quants: 256 values a block in sub-blocks of 16 or 32 with small integer scales under one or
 * two half-precision ones. Functions read as many blocks as `out` holds values for. Where a minimum
 * is subtracted, the product is rounded to float32 first, as float arithmetic does it.
 */

import { f16ToF32 } from "./half.ts";

const VALUES = 256;

/** 16 bytes scale|min nibbles, 64 bytes of 2-bit values, d, dmin. */
export function dequantizeQ2_K(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 84, o += VALUES) {
    const d = scaleAt(bytes, at + 80);
    const dmin = scaleAt(bytes, at + 82);
    // Sub-block s: bits `2 * (s / 2 % 4)` of the 16 bytes that half s / 8 and parity s % 2 choose.
    for (let s = 0; s < 16; s++) {
      const packed = bytes[at + s];
      const scale = Math.fround(d * (packed & 15));
      const minimum = Math.fround(dmin * (packed >> 4));
      const shift = ((s >> 1) & 3) * 2;
      const q = at + 16 + (s >> 3) * 32 + (s & 1) * 16;
      const base = o + s * 16;
      for (let l = 0; l < 16; l++) {
        out[base + l] = Math.fround(scale * ((bytes[q + l] >> shift) & 3)) - minimum;
      }
    }
  }
}

/** 32 bytes of high bits, 64 bytes of 2-bit values, 12 bytes of 6-bit scales, d. */
export function dequantizeQ3_K(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 110, o += VALUES) {
    const d = scaleAt(bytes, at + 108);
    const scales = at + 96;
    for (let s = 0; s < 16; s++) {
      // Low nibbles lie in 8 bytes (two halves), upper bit pairs in the next 4.
      const low = (bytes[scales + (s & 7)] >> ((s >> 3) * 4)) & 15;
      const high = (bytes[scales + 8 + (s & 3)] >> ((s >> 2) * 2)) & 3;
      const scale = Math.fround(d * ((low | (high << 4)) - 32));
      const shift = ((s >> 1) & 3) * 2;
      const q = at + 32 + (s >> 3) * 32 + (s & 1) * 16;
      const mask = at + (s & 1) * 16;
      const bit = s >> 1;
      const base = o + s * 16;
      for (let l = 0; l < 16; l++) {
        const low2 = (bytes[q + l] >> shift) & 3;
        // A clear high bit takes 4 away.
        out[base + l] = scale * (low2 - 4 + (((bytes[mask + l] >> bit) & 1) << 2));
      }
    }
  }
}

/** d, dmin, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles. */
export function dequantizeQ4_K(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 144, o += VALUES) {
    const d = scaleAt(bytes, at);
    const dmin = scaleAt(bytes, at + 2);
    for (let s = 0; s < 8; s++) {
      const scale = Math.fround(d * sixBitScale(bytes, at + 4, s));
      const minimum = Math.fround(dmin * sixBitMinimum(bytes, at + 4, s));
      const q = at + 16 + (s >> 1) * 32;
      const shift = (s & 1) * 4;
      const base = o + s * 32;
      for (let l = 0; l < 32; l++) {
        out[base + l] = Math.fround(scale * ((bytes[q + l] >> shift) & 15)) - minimum;
      }
    }
  }
}

/** d, dmin, 12 bytes of 6-bit scales and minima, 32 bytes of fifth bits, 128 bytes of nibbles. */
export function dequantizeQ5_K(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 176, o += VALUES) {
    const d = scaleAt(bytes, at);
    const dmin = scaleAt(bytes, at + 2);
    for (let s = 0; s < 8; s++) {
      const scale = Math.fround(d * sixBitScale(bytes, at + 4, s));
      const minimum = Math.fround(dmin * sixBitMinimum(bytes, at + 4, s));
      const q = at + 48 + (s >> 1) * 32;
      const shift = (s & 1) * 4;
      const base = o + s * 32;
      for (let l = 0; l < 32; l++) {
        const high = ((bytes[at + 16 + l] >> s) & 1) << 4;
        out[base + l] = Math.fround(scale * (((bytes[q + l] >> shift) & 15) | high)) - minimum;
      }
    }
  }
}

/** 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales, d: (n - 32) d scale. */
export function dequantizeQ6_K(bytes: Uint8Array, out: Float32Array): void {
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0, o = 0; o < out.length; at += 210, o += VALUES) {
    const d = scaleAt(bytes, at + 208);
    // Sub-block s of 16: quarter s / 2 % 4 of half s / 8 chooses nibble and bit pair.
    for (let s = 0; s < 16; s++) {
      const scale = Math.fround(d * signed[at + 192 + s]);
      const quarter = (s >> 1) & 3;
      const low = at + (s >> 3) * 64 + (quarter & 1) * 32 + (s & 1) * 16;
      const lowShift = (quarter >> 1) * 4;
      const high = at + 128 + (s >> 3) * 32 + (s & 1) * 16;
      const highShift = quarter * 2;
      const base = o + s * 16;
      for (let l = 0; l < 16; l++) {
        const q = ((bytes[low + l] >> lowShift) & 15) | (((bytes[high + l] >> highShift) & 3) << 4);
        out[base + l] = scale * (q - 32);
      }
    }
  }
}

/** The half at a byte offset. */
function scaleAt(bytes: Uint8Array, at: number): number {
  return f16ToF32(bytes[at] | (bytes[at + 1] << 8));
}

/**
 * Scale `s` of Q4_K and Q5_K. Bytes 0-3 and 4-7 hold the first four scales and minima in six bits
 * each; the last four have their low nibbles in bytes 8-11 and their upper bits atop the first.
 */
function sixBitScale(bytes: Uint8Array, at: number, s: number): number {
  if (s < 4) return bytes[at + s] & 63;
  return (bytes[at + s + 4] & 15) | ((bytes[at + s - 4] >> 6) << 4);
}

function sixBitMinimum(bytes: Uint8Array, at: number, s: number): number {
  if (s < 4) return bytes[at + s + 4] & 63;
  return (bytes[at + s + 4] >> 4) | ((bytes[at + s] >> 6) << 4);
}
