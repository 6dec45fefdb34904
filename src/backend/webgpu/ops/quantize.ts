/**
 * Rows rounded to integers, for products with quantised weights. A block of 32 values is
 * `factor * n`, n of 8 bits, or of 16 as `256 * high + low` with high and low of 8 bits each.
 *
 * The record of a block is a few vectors of four words: four words of the first 16 values (`high` ones
 * first where there are two), four of the others, then float32: the factor, factor times the sum of the
 * first 16 n, the same of the others, and of all. A row has one record a block.
 */

import type { Buffer, Norm } from "../../backend.ts";
import { unrolled } from "../kernel.ts";
import { bufferOf } from "../memory.ts";
import { blocksOf } from "../weights/format.ts";
import type { OpContext } from "./context.ts";
import { BLOCK_VALUES, LARGEST_BITS, loadVector, overRowBlocks, writeBlock } from "./row_blocks.ts";

/** Bits of the integers that activations are rounded to. */
export type IntegerBits = 8 | 16;

/** How products of integers are computed. */
export interface Integers {
  readonly bits: IntegerBits;
  /** Whether WGSL has a product of four packed bytes here (`packed_4x8_integer_dot_product`). */
  readonly packedDot: boolean;
}

/** Rows as integers. */
export interface QuantizedRows {
  readonly memory: GPUBuffer;
  readonly bits: IntegerBits;
  readonly rows: number;
  readonly cols: number;
}

/** Vectors of four words of a block's record. */
export function recordVectors(bits: IntegerBits): number {
  return bits === 8 ? 3 : 5;
}

/** Bytes of so many rows. */
export function quantizedBytes(
  { rows, cols, bits }: { rows: number; cols: number; bits: IntegerBits },
): number {
  return rows * blocksOf(cols) * recordVectors(bits) * 16;
}

/** Rounds rows of `x`, after their norm where there is one, into scratch of the given name. */
export function quantizedRows(
  context: OpContext,
  { x, norm, rows, bits }: { x: Buffer; norm?: Norm; rows: number; bits: IntegerBits },
): QuantizedRows {
  return quantizedMemory(context, { x: bufferOf(x).memory, cols: x.width, norm, rows, bits });
}

/** The same of rows of `cols` values in a GPU's buffer, from row `firstRow` on. */
export function quantizedMemory(
  context: OpContext,
  { x, cols, norm, rows, bits, name = "quantized" }: {
    x: GPUBuffer;
    cols: number;
    norm?: Norm;
    rows: number;
    bits: IntegerBits;
    name?: string;
  },
): QuantizedRows {
  const known = context.rounded.get(x);
  if (norm === undefined && known?.rows === rows && known.bits === bits) return known;
  const memory = context.scratch(name, quantizedBytes({ rows, cols, bits }));
  context.run(overRowBlocks({ x, cols, norm, rows }, {
    name: "quantize",
    bindings: [{ name: "records", buffer: memory, type: "array<vec4<u32>>", write: true }],
    code: quantizeBlock(bits),
  }));
  const rounded = { memory, bits, rows, cols };
  if (norm === undefined) context.rounded.set(x, rounded);
  return rounded;
}

/** Bytes of workgroup memory that a row takes which a kernel rounds by itself. */
export function stagedBytes(cols: number, { bits }: Integers): number {
  return quantizedBytes({ rows: 1, cols, bits });
}

/** WGSL of `records`, so many rows of them in workgroup memory, for kernels that round `x` themselves. */
export function stagedRecords(rows: number, cols: number, { bits }: Integers): string {
  const vectors = rows * blocksOf(cols) * recordVectors(bits);
  return `
var<workgroup> records: array<vec4<u32>, ${vectors}>;${loadVector(cols)}${quantizeBlock(bits)}`;
}

/**
 * WGSL statements by which `threads` threads fill `records` with rows of whole blocks, from row
 * `firstRow` of `x` on.
 */
export function stageRecords(
  { rows, cols, firstRow, threads }: {
    rows: number;
    cols: number;
    firstRow: string;
    threads: number;
  },
): string {
  return `
  for (var i = lane; i < ${rows * blocksOf(cols)}u; i += ${threads}u) {
    let base = ${firstRow} * ${cols / 4}u;
${unrolled(8, (j) => `    let v${j} = vector(base, i * 8u + ${j}u);`)}
    ${writeBlock("i")}
  }
  workgroupBarrier();`;
}

/**
 * WGSL of `write_block(at, v0, .. v7)`, which writes record `at`. The largest magnitude is found by
 * its bits, so that a block with a NaN or an infinity has such a factor, and so do its products.
 */
function quantizeBlock(bits: IntegerBits): string {
  const vectors = recordVectors(bits);
  const most = bits === 8 ? 127 : 127 * 256 + 127;
  const quads = (name: string) => `vec4<u32>(${name}0, ${name}1, ${name}2, ${name}3)`;
  const others = (name: string) => `vec4<u32>(${name}4, ${name}5, ${name}6, ${name}7)`;
  const parts = bits === 8
    ? unrolled(8, (j) => `  let a${j} = packed(n${j});`)
    : unrolled(8, (j) =>
      `  let l${j} = ((n${j} + vec4<i32>(128)) & vec4<i32>(255)) - vec4<i32>(128);
  let a${j} = packed((n${j} - l${j}) / vec4<i32>(256));
  let b${j} = packed(l${j});`);
  const lists = bits === 8 ? ["a"] : ["a", "b"];
  return `
fn packed(n: vec4<i32>) -> u32 {
  let bytes = vec4<u32>(n) & vec4<u32>(0xffu);
  return bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
}
fn write_block(at: u32, ${BLOCK_VALUES}) {
${LARGEST_BITS}
  let largest = bitcast<f32>(bits);
  // Numbers too small to divide by are zeros.
  let some = bits >= 0x0d000000u && bits < 0x7f800000u;
  let inverse = select(0.0, ${most}.0 / select(1.0, largest, some), some);
  let factor = select(0.0, largest * ${1 / most}, bits >= 0x0d000000u);
${unrolled(8, (j) => `  let n${j} = vec4<i32>(round(v${j} * inverse));`)}
${parts}
  let first = n0 + n1 + n2 + n3;
  let second = n4 + n5 + n6 + n7;
  let sums = vec2<i32>(
    first.x + first.y + first.z + first.w, second.x + second.y + second.z + second.w);
  let factors = factor * vec4<f32>(1.0, f32(sums.x), f32(sums.y), f32(sums.x + sums.y));
${
    lists.map((name, i) =>
      `  records[at * ${vectors}u + ${2 * i}u] = ${quads(name)};
  records[at * ${vectors}u + ${2 * i + 1}u] = ${others(name)};`
    ).join("\n")
  }
  records[at * ${vectors}u + ${vectors - 1}u] = bitcast<vec4<u32>>(factors);
}`;
}
