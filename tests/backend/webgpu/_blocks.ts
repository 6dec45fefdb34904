/** Tables of a file in any type, of any bits that are numbers. */

import type { TensorData } from "../../../src/backend/backend.ts";
import { rowBytes, TENSOR_TYPES, type TensorType } from "../../../src/quant/types.ts";
import { generator } from "../_random.ts";

/** Where the halves of a block are that scale its values, and those of its minima. */
export const HALVES: Partial<Record<TensorType, { scale: number; minimum?: number }>> = {
  Q4_0: { scale: 0 },
  Q4_1: { scale: 0, minimum: 2 },
  Q5_0: { scale: 0 },
  Q5_1: { scale: 0, minimum: 2 },
  Q8_0: { scale: 0 },
  Q2_K: { scale: 80, minimum: 82 },
  Q3_K: { scale: 108 },
  Q4_K: { scale: 0, minimum: 2 },
  Q5_K: { scale: 0, minimum: 2 },
  Q6_K: { scale: 208 },
  IQ4_NL: { scale: 0 },
  IQ4_XS: { scale: 0 },
};

/** Zeros, subnormal numbers and the first normal one, the largest, and some between. */
const HALF_BITS = [0, 1, 0x8001, 0x03ff, 0x83ff, 0x0400, 0x7bff, 0xfbff, 0x8000, 0x2c01, 0xa9f3];

/** Any bits, with scales from HALF_BITS, and nothing that is no number. */
export function blocks(type: TensorType, options: { rows: number; cols: number; seed: number }) {
  const { rows, cols, seed } = options;
  const random = generator(seed);
  const bytes = new Uint8Array(rows * rowBytes(type, cols));
  for (let i = 0; i < bytes.length; i++) bytes[i] = random() * 256;
  const view = new DataView(bytes.buffer);
  const { blockBytes } = TENSOR_TYPES[type];
  const halves = HALVES[type];
  for (let at = 0; at < bytes.length; at += blockBytes) {
    for (const offset of Object.values(halves ?? {})) {
      view.setUint16(at + offset, HALF_BITS[Math.floor(random() * HALF_BITS.length)], true);
    }
    if (type === "MXFP4") bytes[at] = random() * 253;
    if (type === "F8_E4M3") view.setFloat32(at, random() - 0.5, true);
  }
  makeFinite(type, bytes);
  return bytes;
}

/** Clears a bit of the exponent of floats that are infinite or NaN. */
export function makeFinite(type: TensorType, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; at++) {
    if (type === "F32" && at % 4 === 3 && (bytes[at] & 0x7f) === 0x7f) bytes[at] ^= 0x40;
    if (type === "BF16" && at % 2 === 1 && (bytes[at] & 0x7f) === 0x7f) bytes[at] ^= 0x40;
    if (type === "F16" && at % 2 === 1 && (bytes[at] & 0x7c) === 0x7c) bytes[at] ^= 0x40;
    if (type === "F8_E4M3" && at % 36 >= 4 && (bytes[at] & 0x7f) === 0x7f) bytes[at] ^= 0x40;
  }
}

export function tensorOf(
  type: TensorType,
  { rows, cols, bytes }: { rows: number; cols: number; bytes: Uint8Array },
): TensorData {
  return {
    name: `${type} table`,
    type,
    rows,
    cols,
    read(offset, into) {
      into.set(bytes.subarray(offset, offset + into.length));
      return Promise.resolve();
    },
  };
}
