/**
 * Kernels that go over rows block by block, after their norm where there is one, and make of each block
 * what products read instead.
 */

import type { Norm } from "../../backend.ts";
import { type Binding, BUILTINS, type Dispatch, unrolled, WORKGROUP } from "../kernel.ts";
import { BLOCK, blocksOf } from "../weights/format.ts";
import { NORM_LANES, normBinding, normFactors, normMemory, normParams } from "./norm.ts";

/** Rows of float32. */
export interface RowSource {
  readonly x: GPUBuffer;
  readonly rows: number;
  readonly cols: number;
  readonly norm?: Norm;
}

/** What becomes of a block. */
export interface BlockWriter {
  /** For labels. */
  readonly name: string;
  /** What it writes to. */
  readonly bindings: readonly Binding[];
  /** WGSL of `write_block(at, v0, .. v7)`, which writes block `at` of all rows. */
  readonly code: string;
  /** Whether that has numbers of type f16. */
  readonly halves?: boolean;
}

/** Threads of a workgroup that doesn't norm. */
const LANES = 64;

export function overRowBlocks(source: RowSource, writer: BlockWriter): Dispatch {
  const { norm, ...rest } = source;
  return norm === undefined ? plain(rest, writer) : normed({ ...rest, norm }, writer);
}

function plain(source: RowSource, writer: BlockWriter): Dispatch {
  const { rows, cols } = source;
  const blocks = blocksOf(cols);
  return {
    label: `${writer.name} ${cols}`,
    bindings: [xBinding(source), ...writer.bindings],
    params: { rows },
    workgroups: Math.ceil(rows * blocks / LANES),
    halves: writer.halves,
    code: `${loadVector(cols)}${writer.code}
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let i = workgroup * ${LANES}u + lane;
  if (i >= params.rows * ${blocks}u) { return; }
  let base = i / ${blocks}u * ${baseStep(cols)}u;
  let block = i % ${blocks}u;
${unrolled(8, (j) => `  let v${j} = vector(base, block * 8u + ${j}u);`)}
  ${writeBlock("i")}
}`,
  };
}

function normed(source: RowSource & { norm: Norm }, writer: BlockWriter): Dispatch {
  const { rows, cols, norm } = source;
  const blocks = blocksOf(cols);
  return {
    label: `norm and ${writer.name} ${cols}`,
    bindings: [xBinding(source), ...writer.bindings, normBinding(norm, "weight")],
    params: { rows, ...normParams(norm) },
    workgroups: rows,
    halves: writer.halves,
    code: `
var<workgroup> sums: array<f32, ${NORM_LANES}>;
${normMemory(1)}${loadVector(cols)}${writer.code}
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
    ${writeBlock(`workgroup * ${blocks}u + block`)}
  }
}`,
  };
}

function xBinding({ x, cols }: RowSource): Binding {
  return { name: "x", buffer: x, type: cols % 4 === 0 ? "array<vec4<f32>>" : "array<f32>" };
}

/** What a row's first value is further than the one before, in the unit in which `vector` counts. */
function baseStep(cols: number): number {
  return cols % 4 === 0 ? cols / 4 : cols;
}

/** WGSL of `vector(base, i)`, four values of a row, zeros behind the last one. */
export function loadVector(cols: number): string {
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

/** WGSL parameters of `write_block` behind the first, a block's values. */
export const BLOCK_VALUES = Array.from({ length: 8 }, (_, j) => `v${j}: vec4<f32>`).join(", ");

/** WGSL that writes the block `v0, .. v7`. */
export function writeBlock(at: string): string {
  return `write_block(${at}, ${Array.from({ length: 8 }, (_, j) => `v${j}`).join(", ")});`;
}

/** WGSL of the bits of the largest magnitude of the vectors `v0, .. v7`. */
export const LARGEST_BITS = `  var most = vec4<u32>();
${unrolled(8, (j) => `  most = max(most, bitcast<vec4<u32>>(v${j}) & vec4<u32>(0x7fffffffu));`)}
  let bits = max(max(most.x, most.y), max(most.z, most.w));`;
