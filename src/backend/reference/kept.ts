/** What numbers become by being kept in a cache of some type. */

import { f16ToF32, f32ToF16 } from "../../quant/half.ts";
import type { KvType } from "../backend.ts";
import { SCALE_BLOCK } from "../kv_layout.ts";

const LARGEST_HALF = 65504;

/** Rounds one vector (a head's key or value, a latent or a rotary key) in place. */
export function roundKept(type: KvType, vector: Float32Array): void {
  if (type === "f16") {
    for (const [i, value] of vector.entries()) vector[i] = nearestHalf(value);
  }
  if (type === "q8") {
    for (let start = 0; start < vector.length; start += SCALE_BLOCK) {
      roundBlock(vector.subarray(start, start + SCALE_BLOCK));
    }
  }
}

/** The nearest binary16 number, the even one of two; the last one for all that lie beyond. */
function nearestHalf(value: number): number {
  const within = Math.max(-LARGEST_HALF, Math.min(LARGEST_HALF, value));
  return f16ToF32(f32ToF16(within));
}

/** Multiples of the largest magnitude / 127 in float32, from -127 to 127 times. */
function roundBlock(block: Float32Array): void {
  const largest = block.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const scale = Math.fround(largest / 127);
  for (const [i, value] of block.entries()) {
    const cell = scale === 0 ? 0 : nearestEven(Math.fround(value / scale));
    block[i] = Math.max(-127, Math.min(127, cell)) * scale;
  }
}

function nearestEven(value: number): number {
  const nearest = Math.round(value);
  const isTie = Math.abs(value - Math.trunc(value)) === 0.5;
  return isTie ? 2 * Math.round(value / 2) : nearest;
}
