/**
 * Values to k-quants: scales are fitted to each sub-block, rounded to the few bits that they are kept
 * in, and chosen anew beside their neighbours for what was lost by that. The layouts are those that
 * `k_quants.ts` reads. Functions take whole blocks of finite values.
 */

import { affineError, clamp, fitAffine, fitScale } from "./fit.ts";
import { f16ToF32, f32ToF16 } from "./half.ts";

const VALUES = 256;

/** Levels of a nibble above 0, and of the six bits that scales and minima have. */
const NIBBLE = 15;
const SIX_BITS = 63;

/** Q4_K: eight sub-blocks of 32, each with a scale and a minimum. */
export function quantizeQ4_K(values: Float32Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array((values.length / VALUES) * 144);
  const scales = new Uint8Array(8);
  const minima = new Uint8Array(8);
  for (let at = 0, start = 0; start < values.length; at += 144, start += VALUES) {
    const spans = Array.from({ length: 8 }, (_, s) => ({
      values,
      start: start + s * 32,
      length: 32,
    }));
    const fits = spans.map((span) => fitAffine(span, NIBBLE));
    const d = putHalf(bytes, at, Math.max(...fits.map(({ scale }) => scale)) / SIX_BITS);
    const dmin = putHalf(bytes, at + 2, Math.max(...fits.map(({ minimum }) => minimum)) / SIX_BITS);
    for (const [s, { scale, minimum }] of fits.entries()) {
      const near = (value: number, unit: number) =>
        unit > 0 ? clamp(Math.round(value / unit), 0, SIX_BITS) : 0;
      const [scaleNear, minimumNear] = [near(scale, d), near(minimum, dmin)];
      let least = Infinity;
      for (let a = Math.max(0, scaleNear - 1); a <= Math.min(SIX_BITS, scaleNear + 1); a++) {
        for (let b = Math.max(0, minimumNear - 1); b <= Math.min(SIX_BITS, minimumNear + 1); b++) {
          const trial = { scale: d * a, minimum: dmin * b, levels: NIBBLE, most: least };
          const error = affineError(spans[s], trial);
          if (error >= least) continue;
          least = error;
          scales[s] = a;
          minima[s] = b;
        }
      }
    }
    putSixBits(bytes, at + 4, { scales, minima });
    for (let s = 0; s < 8; s++) {
      const inverse = scales[s] > 0 && d > 0 ? 1 / (d * scales[s]) : 0;
      const minimum = dmin * minima[s];
      const shift = (s & 1) * 4;
      const into = at + 16 + (s >> 1) * 32;
      for (let l = 0; l < 32; l++) {
        const q = clamp(Math.round((values[start + s * 32 + l] + minimum) * inverse), 0, NIBBLE);
        bytes[into + l] |= q << shift;
      }
    }
  }
  return bytes;
}

/** Q6_K: sixteen sub-blocks of 16 signed values, each with a signed scale. */
export function quantizeQ6_K(values: Float32Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array((values.length / VALUES) * 210);
  const fits = new Float64Array(16);
  for (let at = 0, start = 0; start < values.length; at += 210, start += VALUES) {
    let largest = 0;
    for (let s = 0; s < 16; s++) {
      fits[s] = fitScale({ values, start: start + s * 16, length: 16 }, 32);
      if (Math.abs(fits[s]) > Math.abs(largest)) largest = fits[s];
    }
    // A byte reaches one further on the negative side.
    const d = putHalf(bytes, at + 208, -largest / 128);
    for (let s = 0; s < 16; s++) {
      const scale = d === 0 ? 0 : clamp(Math.round(fits[s] / d), -128, 127);
      bytes[at + 192 + s] = scale;
      const inverse = scale === 0 ? 0 : 1 / (d * scale);
      const quarter = (s >> 1) & 3;
      const low = at + (s >> 3) * 64 + (quarter & 1) * 32 + (s & 1) * 16;
      const high = at + 128 + (s >> 3) * 32 + (s & 1) * 16;
      for (let l = 0; l < 16; l++) {
        const q = clamp(Math.round(values[start + s * 16 + l] * inverse), -32, 31) + 32;
        bytes[low + l] |= (q & 15) << ((quarter >> 1) * 4);
        bytes[high + l] |= (q >> 4) << (quarter * 2);
      }
    }
  }
  return bytes;
}

/** Writes a half and returns what it is as a number. */
function putHalf(bytes: Uint8Array, at: number, value: number): number {
  const bits = f32ToF16(value);
  bytes[at] = bits & 255;
  bytes[at + 1] = bits >> 8;
  return f16ToF32(bits);
}

/** Eight scales and eight minima of six bits in twelve bytes. */
function putSixBits(
  bytes: Uint8Array,
  at: number,
  { scales, minima }: { scales: Uint8Array; minima: Uint8Array },
): void {
  for (let s = 0; s < 4; s++) {
    bytes[at + s] = scales[s] | ((scales[s + 4] >> 4) << 6);
    bytes[at + s + 4] = minima[s] | ((minima[s + 4] >> 4) << 6);
    bytes[at + s + 8] = (scales[s + 4] & 15) | ((minima[s + 4] & 15) << 4);
  }
}
