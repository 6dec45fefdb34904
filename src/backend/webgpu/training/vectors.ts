/** Vectors of rows and heads as kernels read and write them, four numbers at a time. */

import { unrolled } from "../kernel.ts";
import type { Access } from "./arrays.ts";

export type Names = Readonly<Record<string, string>>;

/** That of a row and head begins at `row * stride + head * each + offset`. */
export interface Vectors {
  readonly memory: GPUBuffer;
  readonly stride: number;
  readonly each: number;
  readonly offset: number;
}

interface Place {
  readonly array: string;
  readonly vectors: Vectors;
  readonly dim: number;
  readonly type: Access["type"];
}

export function sameVectors(a: Vectors, b: Vectors): boolean {
  return a.memory === b.memory && a.offset === b.offset;
}

/** Whether all of them are made of whole vectors of four, one behind the other. */
export function isAligned(all: readonly { vectors: Vectors; dim: number }[]): boolean {
  return all.every(({ vectors: { stride, each, offset }, dim }) =>
    [stride, each, offset, dim].every((number) => number % 4 === 0)
  );
}

/** WGSL of `NAME(row, head, c)`, numbers 4 c .. 4 c + 3, zeros behind the vector's end. */
export function readFour(name: string, place: Place): string {
  const { array, dim, type } = place;
  const body = type === "vec4<f32>"
    ? `return ${array}[${fourAt(place)}];`
    : `let base = ${baseOf(place)} + c * 4u;
  var four = vec4<f32>();
${unrolled(4, (j) => `  if (c * 4u + ${j}u < ${dim}u) { four[${j}] = ${array}[base + ${j}u]; }`)}
  return four;`;
  return `
fn ${name}(row: u32, head: u32, c: u32) -> vec4<f32> {
  ${body}
}`;
}

/** WGSL of `NAME(row, head, c, four)`, the reverse. */
export function writeFour(name: string, place: Place): string {
  const { array, dim, type } = place;
  const body = type === "vec4<f32>"
    ? `${array}[${fourAt(place)}] = four;`
    : `let base = ${baseOf(place)} + c * 4u;
${unrolled(4, (j) => `  if (c * 4u + ${j}u < ${dim}u) { ${array}[base + ${j}u] = four[${j}]; }`)}`;
  return `
fn ${name}(row: u32, head: u32, c: u32, four: vec4<f32>) {
  ${body}
}`;
}

function fourAt({ vectors: { stride, each, offset } }: Place): string {
  return `row * ${stride / 4}u + head * ${each / 4}u + ${offset / 4}u + c`;
}

function baseOf({ vectors: { stride, each, offset } }: Place): string {
  return `row * ${stride}u + head * ${each}u + ${offset}u`;
}
