/**
 * The IQ1, IQ2 and IQ3 types: 256 values a block; groups of four or eight values are points of a
 * lattice, with signs apart (IQ2, IQ3) or shifted by an eighth (IQ1). Functions read as many blocks
 * as `out` holds values for. All products are exact in float32 but for the last one.
 */

import { f16ToF32 } from "./half.ts";
import {
  IQ1_GRID,
  IQ2_S_GRID,
  IQ2_XS_GRID,
  IQ2_XXS_GRID,
  IQ3_S_GRID,
  IQ3_XXS_GRID,
} from "./iq_grids.ts";

const VALUES = 256;

/** How far IQ1 values lie beside their lattice point. */
const IQ1_DELTA = 0.125;

/** Eight signs from seven bits: the eighth makes the number of negative ones even. */
const EVEN_SIGNS = buildEvenSigns();

/** d, then for each 32 values: four grid indices, and a word of four 7-bit signs and a scale. */
export function dequantizeIQ2_XXS(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 66, o += VALUES) {
    const d = f16ToF32(u16(bytes, at));
    for (let s = 0; s < 8; s++) {
      const group = at + 2 + s * 8;
      const word = u32(bytes, group + 4);
      const scale = d * (0.5 + (word >>> 28)) * 0.25;
      for (let l = 0; l < 4; l++) {
        const signs = EVEN_SIGNS[(word >>> (7 * l)) & 127];
        putSigned(IQ2_XXS_GRID, bytes[group + l] * 8, {
          out,
          at: o + s * 32 + l * 8,
          scale,
          signs,
        });
      }
    }
  }
}

/** d, 32 words of 9-bit grid index and 7-bit signs, 8 bytes of scale nibbles (one per 16 values). */
export function dequantizeIQ2_XS(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 74, o += VALUES) {
    const d = f16ToF32(u16(bytes, at));
    for (let g = 0; g < 32; g++) {
      const word = u16(bytes, at + 2 + g * 2);
      const nibble = (bytes[at + 66 + (g >> 2)] >> ((g & 2) * 2)) & 15;
      const scale = d * (0.5 + nibble) * 0.25;
      const signs = EVEN_SIGNS[word >> 9];
      putSigned(IQ2_XS_GRID, (word & 511) * 8, { out, at: o + g * 8, scale, signs });
    }
  }
}

/** d, 32 low index bytes, 32 sign bytes, 8 bytes of upper index bit pairs, 8 of scale nibbles. */
export function dequantizeIQ2_S(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 82, o += VALUES) {
    const d = f16ToF32(u16(bytes, at));
    for (let g = 0; g < 32; g++) {
      const upper = (bytes[at + 66 + (g >> 2)] >> ((g & 3) * 2)) & 3;
      const nibble = (bytes[at + 74 + (g >> 2)] >> ((g & 2) * 2)) & 15;
      const scale = d * (0.5 + nibble) * 0.25;
      const point = (bytes[at + 2 + g] | (upper << 8)) * 8;
      putSigned(IQ2_S_GRID, point, { out, at: o + g * 8, scale, signs: bytes[at + 34 + g] });
    }
  }
}

/** d, 64 grid indices (four values each), 8 words of four 7-bit signs and a scale. */
export function dequantizeIQ3_XXS(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 98, o += VALUES) {
    const d = f16ToF32(u16(bytes, at));
    for (let g = 0; g < 32; g++) {
      const word = u32(bytes, at + 66 + (g >> 2) * 4);
      const scale = d * (0.5 + (word >>> 28)) * 0.5;
      const signs = EVEN_SIGNS[(word >>> (7 * (g & 3))) & 127];
      putSignedHalves(IQ3_XXS_GRID, [bytes[at + 2 + g * 2] * 4, bytes[at + 3 + g * 2] * 4], {
        out,
        at: o + g * 8,
        scale,
        signs,
      });
    }
  }
}

/** d, 64 low index bytes, 8 bytes of ninth bits, 32 sign bytes, 4 bytes of scale nibbles. */
export function dequantizeIQ3_S(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 110, o += VALUES) {
    const d = f16ToF32(u16(bytes, at));
    for (let g = 0; g < 32; g++) {
      const ninth = bytes[at + 66 + (g >> 2)] >> ((g & 3) * 2);
      const nibble = (bytes[at + 106 + (g >> 3)] >> (g & 4)) & 15;
      const scale = d * (1 + 2 * nibble);
      const first = bytes[at + 2 + g * 2] | ((ninth & 1) << 8);
      const second = bytes[at + 3 + g * 2] | ((ninth & 2) << 7);
      putSignedHalves(IQ3_S_GRID, [first * 4, second * 4], {
        out,
        at: o + g * 8,
        scale,
        signs: bytes[at + 74 + g],
      });
    }
  }
}

/** d, 32 low index bytes, 8 words: four 3-bit index tops, a 3-bit scale, the shift's sign. */
export function dequantizeIQ1_S(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 50, o += VALUES) {
    const d = f16ToF32(u16(bytes, at));
    for (let g = 0; g < 32; g++) {
      const word = u16(bytes, at + 34 + (g >> 2) * 2);
      const scale = d * (2 * ((word >> 12) & 7) + 1);
      const delta = (word & 0x8000) === 0 ? IQ1_DELTA : -IQ1_DELTA;
      const point = (bytes[at + 2 + g] | (((word >> (3 * (g & 3))) & 7) << 8)) * 8;
      putShifted(point, { out, at: o + g * 8, scale, delta });
    }
  }
}

/**
 * 32 low index bytes, 16 bytes of two nibbles (3-bit index top, shift's sign), four words of four
 * 3-bit scales whose top nibbles together are d.
 */
export function dequantizeIQ1_M(bytes: Uint8Array, out: Float32Array): void {
  for (let at = 0, o = 0; o < out.length; at += 56, o += VALUES) {
    let half = 0;
    for (let w = 0; w < 4; w++) half |= (u16(bytes, at + 48 + w * 2) >> 12) << (4 * w);
    const d = f16ToF32(half);
    for (let g = 0; g < 32; g++) {
      const sub = g >> 1;
      const bits = (u16(bytes, at + 48 + (sub >> 2) * 2) >> (3 * (sub & 3))) & 7;
      const nibble = bytes[at + 32 + sub] >> ((g & 1) * 4);
      const delta = (nibble & 8) === 0 ? IQ1_DELTA : -IQ1_DELTA;
      const point = (bytes[at + g] | ((nibble & 7) << 8)) * 8;
      putShifted(point, { out, at: o + g * 8, scale: d * (2 * bits + 1), delta });
    }
  }
}

/** Where eight values go and what they are multiplied by; bit j of `signs` negates value j. */
interface SignedTarget {
  readonly out: Float32Array;
  readonly at: number;
  readonly scale: number;
  readonly signs: number;
}

function putSigned(grid: Int8Array, point: number, target: SignedTarget): void {
  const { out, at, scale, signs } = target;
  for (let j = 0; j < 8; j++) {
    const value = scale * grid[point + j];
    out[at + j] = ((signs >> j) & 1) === 0 ? value : -value;
  }
}

/** Eight values from two points of four. */
function putSignedHalves(
  grid: Int8Array,
  points: readonly [number, number],
  target: SignedTarget,
): void {
  const { out, at, scale, signs } = target;
  for (let j = 0; j < 8; j++) {
    const value = scale * grid[points[j >> 2] + (j & 3)];
    out[at + j] = ((signs >> j) & 1) === 0 ? value : -value;
  }
}

function putShifted(
  point: number,
  target: { out: Float32Array; at: number; scale: number; delta: number },
): void {
  const { out, at, scale, delta } = target;
  for (let j = 0; j < 8; j++) out[at + j] = scale * (IQ1_GRID[point + j] + delta);
}

function u16(bytes: Uint8Array, at: number): number {
  return bytes[at] | (bytes[at + 1] << 8);
}

function u32(bytes: Uint8Array, at: number): number {
  return (u16(bytes, at) | (u16(bytes, at + 2) << 16)) >>> 0;
}

function buildEvenSigns(): Uint8Array {
  const table = new Uint8Array(128);
  for (let bits = 0; bits < 128; bits++) {
    let parity = 0;
    for (let rest = bits; rest !== 0; rest >>= 1) parity ^= rest & 1;
    table[bits] = bits | (parity << 7);
  }
  return table;
}
