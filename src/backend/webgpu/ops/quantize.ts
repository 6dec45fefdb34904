/**
 * Rows rounded to integers, for products with quantised weights. A block of 32 values is
 * `factor * n`, n of 8 bits, or of 16 as `256 * high + low` with high and low of 8 bits each.
 *
 * The record of a block is a few vectors of four words: four words of the first 16 values (`high` ones
 * first where there are two), four of the others, then float32: the factor, factor times the sum of the
 * first 16 n, the same of the others, and of all. A row has one record a block.
 */

import type { Buffer, Norm } from "../../backend.ts";
import { BUILTINS, type Dispatch, unrolled, WORKGROUP } from "../kernel.ts";
import { bufferOf } from "../memory.ts";
import { BLOCK, blocksOf } from "../weights/format.ts";
import type { OpContext } from "./context.ts";
import { NORM_LANES, normBinding, normFactors, normMemory, normParams } from "./norm.ts";

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

/** Threads of a workgroup that rounds without norming. */
const LANES = 64;

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
  const source = { x, memory, cols, rows, bits };
  context.run(norm === undefined ? plain(source) : normed({ ...source, norm }));
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
    ${quantizeCall("i")}
  }
  workgroupBarrier();`;
}

interface Source {
  readonly x: GPUBuffer;
  readonly memory: GPUBuffer;
  readonly cols: number;
  readonly rows: number;
  readonly bits: IntegerBits;
}

function plain(source: Source): Dispatch {
  const { rows, cols, bits } = source;
  const blocks = blocksOf(cols);
  return {
    label: `quantize ${cols}`,
    bindings: bindingsOf(source),
    params: { rows },
    workgroups: Math.ceil(rows * blocks / LANES),
    code: `${loadVector(cols)}${quantizeBlock(bits)}
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let i = workgroup * ${LANES}u + lane;
  if (i >= params.rows * ${blocks}u) { return; }
  let base = i / ${blocks}u * ${baseStep(cols)}u;
  let block = i % ${blocks}u;
${unrolled(8, (j) => `  let v${j} = vector(base, block * 8u + ${j}u);`)}
  ${quantizeCall("i")}
}`,
  };
}

function normed(source: Source & { norm: Norm }): Dispatch {
  const { rows, cols, bits, norm } = source;
  const blocks = blocksOf(cols);
  return {
    label: `norm and quantize ${cols}`,
    bindings: [...bindingsOf(source), normBinding(norm, "weight")],
    params: { rows, ...normParams(norm) },
    workgroups: rows,
    code: `
var<workgroup> sums: array<f32, ${NORM_LANES}>;
${normMemory(1)}${loadVector(cols)}${quantizeBlock(bits)}
fn scale_of(i: u32) -> vec4<f32> {
${cols % 4 === 0 ? `  return weight[min(i, ${cols / 4 - 1}u)];` : scalars("weight", "0u", cols)}
}
@compute @workgroup_size(${NORM_LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  if (workgroup >= params.rows) { return; }
  let base = workgroup * ${baseStep(cols)}u;
${normFactors({ rows: 1, width: cols, load: () => "vector(base, i)" })}
  for (var block = lane; block < ${blocks}u; block += ${NORM_LANES}u) {
${
      unrolled(8, (j) =>
        `    let v${j} = vector(base, block * 8u + ${j}u) * factor0 * scale_of(block * 8u + ${j}u);`)
    }
    ${quantizeCall(`workgroup * ${blocks}u + block`)}
  }
}`,
  };
}

function bindingsOf({ x, memory, cols }: Source): Dispatch["bindings"] {
  return [
    { name: "x", buffer: x, type: cols % 4 === 0 ? "array<vec4<f32>>" : "array<f32>" },
    { name: "records", buffer: memory, type: "array<vec4<u32>>", write: true },
  ];
}

/** What a row's first value is further than the one before, in the unit in which `vector` counts. */
function baseStep(cols: number): number {
  return cols % 4 === 0 ? cols / 4 : cols;
}

/** WGSL of `vector(base, i)`, four values of a row, zeros behind the last one. */
function loadVector(cols: number): string {
  if (cols % BLOCK === 0) {
    return `\nfn vector(base: u32, i: u32) -> vec4<f32> { return x[base + i]; }`;
  }
  return `
fn vector(base: u32, i: u32) -> vec4<f32> {
${
    cols % 4 === 0
      ? `  if (i >= ${cols / 4}u) { return vec4<f32>(); }\n  return x[base + i];`
      : scalars("x", "base", cols)
  }
}`;
}

function scalars(name: string, base: string, cols: number): string {
  return `  var v: vec4<f32>;
  for (var j = 0u; j < 4u; j++) {
    if (i * 4u + j < ${cols}u) { v[j] = ${name}[${base} + i * 4u + j]; }
  }
  return v;`;
}

function quantizeCall(at: string): string {
  return `quantize_block(${at}, ${Array.from({ length: 8 }, (_, j) => `v${j}`).join(", ")});`;
}

/**
 * WGSL of `quantize_block(at, v0, .. v7)`, which writes record `at`. The largest magnitude is found by
 * its bits, so that a block with a NaN or an infinity has such a factor, and so do its products.
 */
function quantizeBlock(bits: IntegerBits): string {
  const vectors = recordVectors(bits);
  const most = bits === 8 ? 127 : 127 * 256 + 127;
  const values = Array.from({ length: 8 }, (_, j) => `v${j}: vec4<f32>`).join(", ");
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
fn quantize_block(at: u32, ${values}) {
  var most = vec4<u32>();
${unrolled(8, (j) => `  most = max(most, bitcast<vec4<u32>>(v${j}) & vec4<u32>(0x7fffffffu));`)}
  let bits = max(max(most.x, most.y), max(most.z, most.w));
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
