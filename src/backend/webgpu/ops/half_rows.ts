/**
 * Rows rounded to half precision, for products with weights that are halves. A block of 32 values is
 * `factor * n`: factor a power of two above the largest magnitude, so that n lies between -1 and 1, with
 * the eleven bits of an f16. (Values beyond 2^126 have larger n, at most 4.) A block with a NaN or an
 * infinity has a NaN for its factor, which all its products become.
 */

import type { Buffer, Norm } from "../../backend.ts";
import { unrolled } from "../kernel.ts";
import { bufferOf } from "../memory.ts";
import { BLOCK, blocksOf } from "../weights/format.ts";
import type { OpContext } from "./context.ts";
import { BLOCK_VALUES, LARGEST_BITS, overRowBlocks, type RowSource } from "./row_blocks.ts";

/** Rows as halves: each block's 32 n in one buffer and its factor in the other. */
export interface HalfRows {
  readonly memory: GPUBuffer;
  readonly factors: GPUBuffer;
}

/** WGSL of `Halves`, eight n of a block, or weights. */
export const HALVES = `
struct Halves { a: vec4<f16>, b: vec4<f16> }`;

/** Bytes of the two buffers of so many rows. */
export function halfBytes(
  { rows, cols }: { rows: number; cols: number },
): { memory: number; factors: number } {
  const blocks = rows * blocksOf(cols);
  return { memory: blocks * BLOCK * 2, factors: blocks * 4 };
}

/** Rounds rows of `x`, after their norm where there is one. */
export function halfRows(
  context: OpContext,
  { x, norm, rows }: { x: Buffer; norm?: Norm; rows: number },
): HalfRows {
  return halfMemory(context, { x: bufferOf(x).memory, cols: x.width, norm, rows });
}

/** The same of rows of `cols` values in a GPU's buffer. */
export function halfMemory(context: OpContext, source: RowSource): HalfRows {
  const bytes = halfBytes(source);
  const memory = context.scratch("halves", bytes.memory);
  const factors = context.scratch("factors of halves", bytes.factors);
  context.run(overRowBlocks(source, {
    name: "round to halves",
    bindings: [
      { name: "numbers", buffer: memory, type: "array<Halves>", write: true },
      { name: "factors", buffer: factors, type: "array<u32>", write: true },
    ],
    code: ROUND_BLOCK,
    halves: true,
  }));
  return { memory, factors };
}

/**
 * WGSL of `write_block(at, v0, .. v7)`. Numbers are rounded to even as integers, since WGSL leaves open
 * how a conversion rounds; the one behind it then finds a number that an f16 has.
 */
const ROUND_BLOCK = `${HALVES}
fn half_of(v: vec4<f32>) -> vec4<f16> {
  let bits = bitcast<vec4<u32>>(v);
  let even = (bits >> vec4<u32>(13u)) & vec4<u32>(1u);
  return vec4<f16>(bitcast<vec4<f32>>((bits + even + vec4<u32>(0xfffu)) & vec4<u32>(0xffffe000u)));
}
fn write_block(at: u32, ${BLOCK_VALUES}) {
${LARGEST_BITS}
  // Of the factor; that of the inverse is a normal number's too. Numbers far below 2^-101 become zeros.
  let exponent = clamp((bits >> 23u) + 1u, 26u, 253u);
  let inverse = bitcast<f32>((254u - exponent) << 23u);
  factors[at] = select(exponent << 23u, 0x7fc00000u, bits >= 0x7f800000u);
${
  unrolled(4, (j) =>
    `  numbers[at * 4u + ${j}u] = Halves(half_of(v${2 * j} * inverse), half_of(v${
      2 * j + 1
    } * inverse));`)
}
}`;
