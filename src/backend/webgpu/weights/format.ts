/**
 * How a tensor type lies in GPU memory. A row is made of blocks of 32 values (the last one filled up
 * with zeros), and its bits are parted in two planes, so that neighbouring threads read neighbouring
 * words: `quants`, sixteen bytes at a time, and `scales`, a word at a time, which holds everything else.
 */

import type { TensorType } from "../../../quant/types.ts";

/** Values of a block: the unit of packing and of sums. */
export const BLOCK = 32;

export interface WeightFormat {
  readonly type: TensorType;
  /** 32-bit words of a block's quants; a row has a multiple of four. */
  readonly quantWords: number;
  /** 32-bit words of a row of so many values in the plane of scales; may be 0. */
  scaleWords(cols: number): number;
  /**
   * Packs rows from the file's layout. Both planes start with the first of these rows, and are zero.
   * Returns false where a value is NaN or infinite.
   */
  pack(file: Uint8Array, shape: { rows: number; cols: number }, planes: Planes): boolean;
  /**
   * WGSL of `fn NAME_8(row: u32, unit: u32) -> Eight`: values 8 unit .. 8 unit + 7 of a row, from
   * `NAME_q: array<vec4<u32>>` and, where it has scales, `NAME_s: array<u32>`.
   */
  decode(name: string, cols: number): string;
}

export interface Planes {
  readonly quants: Uint32Array;
  readonly scales: Uint32Array;
}

/** Where the planes of some rows lie in their buffer. */
export interface PlaneBytes {
  readonly quantBytes: number;
  readonly scaleOffset: number;
  readonly scaleBytes: number;
}

/** Bindings start at multiples of this. */
const ALIGNMENT = 256;

export function blocksOf(cols: number): number {
  return Math.ceil(cols / BLOCK);
}

/** Words that a row's quants take: whole vectors of four. */
export function rowQuantWords({ quantWords }: WeightFormat, cols: number): number {
  return Math.ceil(blocksOf(cols) * quantWords / 4) * 4;
}

export function planeBytes(
  format: WeightFormat,
  { rows, cols }: { rows: number; cols: number },
): PlaneBytes {
  const quantBytes = rows * rowQuantWords(format, cols) * 4;
  const scaleBytes = rows * format.scaleWords(cols) * 4;
  return { quantBytes, scaleOffset: Math.ceil(quantBytes / ALIGNMENT) * ALIGNMENT, scaleBytes };
}

/** WGSL that the code of every format may use. */
export const DECODE_COMMON = `
struct Eight { a: vec4<f32>, b: vec4<f32> }
`;
