/** Seeded inputs for backend tests: activations, and weights of every type as valid random blocks. */

import type { TensorData } from "../../src/backend/backend.ts";
import { dequantize } from "../../src/quant/dequantize.ts";
import { rowBytes, TENSOR_TYPES, type TensorType } from "../../src/quant/types.ts";

/** A small generator (mulberry32): uniform numbers in [0, 1). */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Normally distributed float32 values, times `scale`. */
export function normals(
  random: () => number,
  options: { length: number; scale?: number },
): Float32Array {
  const { length, scale = 1 } = options;
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    values[i] = scale * radius * Math.cos(2 * Math.PI * random());
  }
  return values;
}

/** A weight as a file would hold it, and the numbers it stands for. */
export interface TestWeight {
  readonly data: TensorData;
  /** [rows, cols] */
  readonly values: Float32Array;
}

/** Offsets of the float16 scales within a block; the rest of a block may be any bits. */
const SCALE_OFFSETS: Partial<Record<TensorType, readonly number[]>> = {
  Q4_0: [0],
  Q4_1: [0, 2],
  Q5_0: [0],
  Q5_1: [0, 2],
  Q8_0: [0],
  Q8_1: [0, 2],
  Q2_K: [80, 82],
  Q3_K: [108],
  Q4_K: [0, 2],
  Q5_K: [0, 2],
  Q6_K: [208],
  IQ4_NL: [0],
  IQ4_XS: [0],
  IQ2_XXS: [0],
  IQ2_XS: [0],
  IQ2_S: [0],
  IQ3_XXS: [0],
  IQ3_S: [0],
  IQ1_S: [0],
  TQ1_0: [52],
  TQ2_0: [64],
};

/** Random weights of a type: any bits in the blocks, scales of either sign in a narrow range. */
export function randomWeight(
  random: () => number,
  options: { name: string; type: TensorType; rows: number; cols: number },
): TestWeight {
  const { name, type, rows, cols } = options;
  const bytes = new Uint8Array(rows * rowBytes(type, cols));
  const view = new DataView(bytes.buffer);
  const { blockBytes } = TENSOR_TYPES[type];
  if (type === "F32" || type === "F16" || type === "BF16") {
    const values = normals(random, { length: rows * cols, scale: 0.3 });
    writeFloats(view, type, values);
  } else {
    for (let i = 0; i < bytes.length; i++) bytes[i] = Math.floor(random() * 256);
    for (let block = 0; block < bytes.length; block += blockBytes) {
      for (const offset of SCALE_OFFSETS[type] ?? []) {
        const sign = random() < 0.5 ? -1 : 1;
        view.setFloat16(block + offset, sign * (0.01 + 0.02 * random()), true);
      }
      // A power of two around 2^-6.
      if (type === "MXFP4") bytes[block] = 119 + Math.floor(random() * 4);
      // Four positive e4m3 scales between 2^-3 and 2^-1.
      if (type === "NVFP4") { for (let i = 0; i < 4; i++) bytes[block + i] = 0x20 + random() * 16; }
      if (type === "F8_E4M3") scaleFloats(view, { block, factor: 0.002 + 0.001 * random() });
      if (type === "IQ1_M") scatterScale(view, { at: block + 48, bits: 0x2000 + random() * 0x800 });
    }
  }
  const values = new Float32Array(rows * cols);
  dequantize(type, bytes, values);
  const data: TensorData = {
    name,
    type,
    rows,
    cols,
    read(offset, into) {
      into.set(bytes.subarray(offset, offset + into.length));
      return Promise.resolve();
    },
  };
  return { data, values };
}

/** Gives a block of e4m3 numbers its factor, and makes numbers of those that are none. */
function scaleFloats(view: DataView, { block, factor }: { block: number; factor: number }): void {
  view.setFloat32(block, factor, true);
  for (let at = block + 4; at < block + 36; at++) {
    if ((view.getUint8(at) & 0x7f) === 0x7f) view.setUint8(at, 0x30);
  }
}

/** IQ1_M keeps a float16 as the top four bits of each of its four words of scales. */
function scatterScale(view: DataView, options: { at: number; bits: number }): void {
  for (let i = 0; i < 4; i++) {
    const word = view.getUint16(options.at + 2 * i, true) & 0x0fff;
    view.setUint16(options.at + 2 * i, word | (((options.bits >> (4 * i)) & 15) << 12), true);
  }
}

function writeFloats(view: DataView, type: "F32" | "F16" | "BF16", values: Float32Array): void {
  const bits = new Uint32Array(values.buffer);
  for (let i = 0; i < values.length; i++) {
    if (type === "F32") view.setFloat32(i * 4, values[i], true);
    else if (type === "F16") view.setFloat16(i * 2, values[i], true);
    else view.setUint16(i * 2, bits[i] >>> 16, true);
  }
}
