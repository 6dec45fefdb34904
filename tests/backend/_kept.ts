/** What a cache of each type makes of numbers, from the definition of the types. */

import type { KvType } from "../../src/backend/backend.ts";

export const KV_TYPES: readonly KvType[] = ["f32", "f16", "q8"];

/** A head's key or value, a latent or a rotary key as it is read again. */
export function kept(type: KvType, vector: Float32Array): Float32Array {
  if (type === "f16") return vector.map(half);
  if (type === "q8") return vector.map((value, i) => eightBits(value, blockOf(vector, i)));
  return vector.slice();
}

/** How far apart neighbouring numbers of the type are at a number of the vector. */
export function stepOf(type: KvType, vector: Float32Array, i: number): number {
  if (type === "f16") return placeOf(vector[i]);
  if (type === "q8") return largestOf(blockOf(vector, i)) / 127;
  return 0;
}

function half(value: number): number {
  const place = placeOf(value);
  return Math.max(-65504, Math.min(65504, nearestEven(value / place) * place));
}

/** The last place of the half's binade; subnormal halves share the smallest. */
function placeOf(value: number): number {
  const exponent = value === 0 ? -14 : Math.floor(Math.log2(Math.abs(value)));
  return 2 ** (Math.max(-14, exponent) - 10);
}

function eightBits(value: number, block: Float32Array): number {
  const scale = Math.fround(largestOf(block) / 127);
  return scale === 0 ? 0 : nearestEven(Math.fround(value / scale)) * scale;
}

/** The 32 numbers, fewer at the end, that number i shares a scale with. */
function blockOf(vector: Float32Array, i: number): Float32Array {
  const start = i - i % 32;
  return vector.subarray(start, start + 32);
}

function largestOf(block: Float32Array): number {
  return block.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

function nearestEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest === 0.5) return below % 2 === 0 ? below : below + 1;
  return rest < 0.5 ? below : below + 1;
}
