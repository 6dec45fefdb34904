/**
 * The classic quantisations: 32 values a block with one or two half-precision scales.
 * Functions read as many blocks as `out` holds values for.
 */

import { clamp, fitScale } from "./fit.ts";
import { f16ToF32, f32ToF16 } from "./half.ts";

/** Values per block of every type here. */
const VALUES = 32;

/** d (f16), 16 bytes of nibbles: (n - 8) d; low nibbles are the first half. */
export function dequantizeQ4_0(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 18, o += VALUES) {
    const d = scaleAt(bytes, at);
    for (let j = 0; j < 16; j++) {
      const q = bytes[at + 2 + j];
      out[o + j] = ((q & 15) - 8) * d;
      out[o + 16 + j] = ((q >> 4) - 8) * d;
    }
  }
}

/** d, m (f16), 16 bytes of nibbles: n d + m. */
export function dequantizeQ4_1(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 20, o += VALUES) {
    const d = scaleAt(bytes, at);
    const m = scaleAt(bytes, at + 2);
    for (let j = 0; j < 16; j++) {
      const q = bytes[at + 4 + j];
      out[o + j] = Math.fround((q & 15) * d) + m;
      out[o + 16 + j] = Math.fround((q >> 4) * d) + m;
    }
  }
}

/** d (f16), 32 fifth bits, 16 bytes of nibbles: (n - 16) d. */
export function dequantizeQ5_0(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 22, o += VALUES) {
    const d = scaleAt(bytes, at);
    for (let j = 0; j < 16; j++) {
      const q = bytes[at + 6 + j];
      out[o + j] = (((q & 15) | fifthBit(bytes, at + 2, j)) - 16) * d;
      out[o + 16 + j] = (((q >> 4) | fifthBit(bytes, at + 2, j + 16)) - 16) * d;
    }
  }
}

/** d, m (f16), 32 fifth bits, 16 bytes of nibbles: n d + m. */
export function dequantizeQ5_1(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 24, o += VALUES) {
    const d = scaleAt(bytes, at);
    const m = scaleAt(bytes, at + 2);
    for (let j = 0; j < 16; j++) {
      const q = bytes[at + 8 + j];
      out[o + j] = Math.fround(((q & 15) | fifthBit(bytes, at + 4, j)) * d) + m;
      out[o + 16 + j] = Math.fround(((q >> 4) | fifthBit(bytes, at + 4, j + 16)) * d) + m;
    }
  }
}

/** d (f16), 32 signed bytes: n d. */
export function dequantizeQ8_0(bytes: Uint8Array, out: Float32Array): void {
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0, o = 0; o < out.length; at += 34, o += VALUES) {
    const d = scaleAt(bytes, at);
    for (let j = 0; j < VALUES; j++) out[o + j] = signed[at + 2 + j] * d;
  }
}

/** d (f16), d times the sum (f16, for dot products only), 32 signed bytes: n d. */
export function dequantizeQ8_1(bytes: Uint8Array, out: Float32Array): void {
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0, o = 0; o < out.length; at += 36, o += VALUES) {
    const d = scaleAt(bytes, at);
    for (let j = 0; j < VALUES; j++) out[o + j] = signed[at + 4 + j] * d;
  }
}

/**
 * Q8_0 blocks as ggml makes them: d = amax / 127 in float32, values times 1 / d rounded half away
 * from zero, d then stored as a half. `values` holds a whole number of blocks of finite values.
 */
export function quantizeQ8_0(values: Float32Array): Uint8Array<ArrayBuffer> {
  if (values.length % VALUES !== 0) {
    throw new RangeError(
      `cannot quantise to Q8_0: the length is ${values.length}, must be a multiple of ${VALUES}`,
    );
  }
  const bytes = new Uint8Array((values.length / VALUES) * 34);
  for (let at = 0, i = 0; i < values.length; at += 34, i += VALUES) {
    let largest = 0;
    for (let j = 0; j < VALUES; j++) largest = Math.max(largest, Math.abs(values[i + j]));
    const d = Math.fround(largest / 127);
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    const scale = f32ToF16(d);
    bytes[at] = scale & 255;
    bytes[at + 1] = scale >> 8;
    for (let j = 0; j < VALUES; j++) {
      const x = Math.fround(values[i + j] * inverse);
      // Math.trunc(x + 0.5) would be wrong just below a half; the sum is exact in a double.
      bytes[at + 2 + j] = x < 0 ? -Math.floor(0.5 - x) : Math.floor(x + 0.5);
    }
  }
  return bytes;
}

/** Q5_0 blocks with the scale of least squared error. `values` holds a whole number of blocks. */
export function quantizeQ5_0(values: Float32Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array((values.length / VALUES) * 22);
  for (let at = 0, start = 0; start < values.length; at += 22, start += VALUES) {
    const bits = f32ToF16(fitScale({ values, start, length: VALUES }, 16));
    const d = f16ToF32(bits);
    bytes[at] = bits & 255;
    bytes[at + 1] = bits >> 8;
    const inverse = d === 0 ? 0 : 1 / d;
    for (let j = 0; j < VALUES; j++) {
      const q = clamp(Math.round(values[start + j] * inverse), -16, 15) + 16;
      bytes[at + 6 + (j & 15)] |= (q & 15) << ((j >> 4) * 4);
      bytes[at + 2 + (j >> 3)] |= (q >> 4) << (j & 7);
    }
  }
  return bytes;
}

/** The half at a byte offset. */
function scaleAt(bytes: Uint8Array, at: number): number {
  return f16ToF32(bytes[at] | (bytes[at + 1] << 8));
}

/** Bit `index` of the four bytes at `at`, as 0 or 16. */
function fifthBit(bytes: Uint8Array, at: number, index: number): number {
  return ((bytes[at + (index >> 3)] >> (index & 7)) & 1) << 4;
}
