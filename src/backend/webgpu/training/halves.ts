/**
 * Numbers in two bytes each, two in a word: activations between the passes, weights beside their masters, and
 * what goes into products with those. Rounding is to nearest even on every adapter, which WGSL's own
 * conversions don't promise.
 */

import { foreign } from "../../op_checks.ts";
import type { HalfBuffer } from "../../training.ts";
import type * as params from "../../training_params.ts";
import type { OpContext } from "../ops/context.ts";
import { bufferOf } from "../memory.ts";
import { each, reads, writes } from "./arrays.ts";

export class GpuHalfBuffer implements HalfBuffer {
  readonly rows: number;
  readonly width: number;
  readonly memory: GPUBuffer;

  constructor({ rows, width }: HalfBuffer, memory: GPUBuffer) {
    this.rows = rows;
    this.width = width;
    this.memory = memory;
  }
}

function halfBufferOf(buffer: HalfBuffer): GpuHalfBuffer {
  if (buffer instanceof GpuHalfBuffer) return buffer;
  throw foreign("buffer of halves");
}

/** Bytes of so many halves, in whole words. */
export function halfBytes(count: number): number {
  return Math.ceil(count / 2) * 4;
}

/**
 * WGSL of `half_of`, the bits of the nearest half. What is too large for one, and what is no number, becomes
 * infinite, so that a gradient made of it isn't finite either.
 */
const HALF_OF = `
fn half_of(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  let magnitude = bits & 0x7fffffffu;
  let normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u;
  // The last bit of numbers from 0.5 on is 2^-24, the smallest half.
  let subnormal = bitcast<u32>(bitcast<f32>(magnitude) + 0.5) - 0x3f000000u;
  let finite = select(normal, subnormal, magnitude < 0x38800000u);
  return ((bits >> 16u) & 0x8000u) | select(finite, 0x7c00u, magnitude >= 0x477ff000u);
}`;

/** WGSL of half `i` of an array of words. */
export function halfAt(array: string, i: string): string {
  return `unpack2x16float(${array}[(${i}) >> 1u] >> (16u * ((${i}) & 1u))).x`;
}

/** Rounds `count` float32. */
export function roundToHalves(
  context: OpContext,
  { from, to, count }: { from: GPUBuffer; to: GPUBuffer; count: number },
): void {
  each(context, {
    label: "halves",
    arrays: { from: reads(from), to: writes(to, "u32") },
    params: { numbers: count },
    count: Math.ceil(count / 2),
    declare: HALF_OF,
    body: ({ from, to }) => `
  let last = 2u * i + 1u;
  let low = half_of(${from}[2u * i]);
  var high = 0u;
  if (last < params.numbers) { high = half_of(${from}[last]); }
  ${to}[i] = low | (high << 16u);`,
  });
}

/** The same numbers as halves, in scratch memory of this name. */
export function roundedCopy(
  context: OpContext,
  name: string,
  { from, count }: { from: GPUBuffer; count: number },
): GPUBuffer {
  const to = context.scratch(`halves of ${name}`, halfBytes(count));
  roundToHalves(context, { from, to, count });
  return to;
}

export function pack(context: OpContext, { values, half, rows }: params.PackParams): void {
  const from = bufferOf(values).memory;
  roundToHalves(context, { from, to: halfBufferOf(half).memory, count: rows * half.width });
}

export function unpack(context: OpContext, { values, half, rows }: params.PackParams): void {
  each(context, {
    label: "unpack halves",
    arrays: { from: reads(halfBufferOf(half).memory, "u32"), to: writes(values) },
    count: rows * half.width,
    body: ({ from, to }) => `${to}[i] = ${halfAt(from, "i")};`,
  });
}
