/** What the kernels of attention share: what they read, and the arithmetic that must be the same in all. */

import { type BatchBuffers, type Buffer, PAGE_TOKENS } from "../../backend.ts";
import type { Binding, Dispatch } from "../kernel.ts";
import { bufferOf } from "../memory.ts";
import { DECODE_COMMON } from "../weights/format.ts";
import { UNIT, unitsOf } from "./cells.ts";
import { batchBindings } from "./rotation.ts";

/** Pages whose sums are merged before they are merged with those of others. */
export const SEGMENT_PAGES = 4;
export const SEGMENT_TOKENS = SEGMENT_PAGES * PAGE_TOKENS;

/** A run of the numbers of each query and key. */
export interface QueryPart {
  /** Keys are read by `NAME_8`, queries from `query_NAME`. */
  readonly name: string;
  readonly dim: number;
  readonly query: Buffer;
  /** Where head h of a row lies in it: from h * headStride + start on. */
  readonly headStride: number;
  readonly start: number;
}

/** An attention of whichever kind of cache. */
export interface Attention {
  readonly label: string;
  readonly rows: number;
  readonly heads: number;
  /** Heads of the cache; as many consecutive heads of queries share one. */
  readonly kvHeads: number;
  readonly scale: number;
  readonly parts: readonly QueryPart[];
  /** Values are read by `NAME_8`. */
  readonly value: { readonly name: string; readonly dim: number };
  /** Arrays of the cache, and WGSL that reads them. */
  readonly bindings: readonly Binding[];
  readonly code: string;
  readonly batch: BatchBuffers;
  /** `[rows, heads * value.dim]` */
  readonly out: GPUBuffer;
  readonly window?: number;
  /** `[heads]` */
  readonly sinks?: GPUBuffer;
}

/** How segments are shared out: `slots` workgroups take turns at those of a row and some of its heads. */
export interface Split {
  readonly slots: number;
  /** The most of a row. */
  readonly segments: number;
  /** f32 [rows, heads, segments, value quads * 4] */
  readonly sums: GPUBuffer;
  /** f32 [rows, heads, segments, 2]: the largest score, and the sum of weights. */
  readonly stats: GPUBuffer;
}

/** What all kernels of an attention read. */
export function attentionBindings({ parts, bindings, batch }: Attention): Binding[] {
  return [
    ...parts.map((part) => ({
      name: `query_${part.name}`,
      buffer: bufferOf(part.query).memory,
      type: isWhole(part) ? "array<vec4<f32>>" : "array<f32>",
    })),
    ...bindings,
    ...batchBindings(batch),
  ];
}

/** Parameters of all of them. */
export function attentionParams(attention: Attention): Dispatch["params"] {
  const { rows, scale, batch, window = 0xffffffff } = attention;
  return {
    rows,
    tableWidth: batch.pageTables.width,
    window,
    scale: { f32: scale * Math.LOG2E },
  };
}

/** Units of a query, each part filled up to whole ones. */
export function queryUnits({ parts }: Attention): number {
  return parts.reduce((sum, { dim }) => sum + unitsOf(dim), 0);
}

/** Whether units of queries start with whole vectors. */
function isWhole({ query, dim, headStride, start }: QueryPart): boolean {
  return dim % UNIT === 0 && [query.width, headStride, start].every((at) => at % 4 === 0);
}

/**
 * WGSL of `queries_8(row, head, unit)` and `keys_8(slot, head, unit)` over all parts, queries times the
 * scale, zero beyond the last unit.
 */
export function readQueriesAndKeys(attention: Attention): string {
  let first = 0;
  const branches = attention.parts.map(({ name, dim }) => {
    const branch = { name, first, end: first + unitsOf(dim) };
    first = branch.end;
    return branch;
  });
  const choose = (call: (name: string, unit: string) => string) =>
    branches.map(({ name, first, end }) =>
      `if (unit < ${end}u) { return ${call(name, `unit - ${first}u`)}; }`
    ).join("\n  ");
  return `${DECODE_COMMON}${attention.code}${attention.parts.map(readQuery).join("")}
fn queries_8(row: u32, head: u32, unit: u32) -> Eight {
  ${choose((name, unit) => `query_${name}_8(row, head, ${unit})`)}
  return Eight();
}
fn keys_8(slot: u32, head: u32, unit: u32) -> Eight {
  ${choose((name, unit) => `${name}_8(slot, head, ${unit})`)}
  return Eight();
}`;
}

function readQuery(part: QueryPart): string {
  const { name, query: { width }, dim, headStride, start } = part;
  const array = `query_${name}`;
  const body = isWhole(part)
    ? `
  let at = row * ${width / 4}u + head * ${headStride / 4}u + ${start / 4}u + unit * 2u;
  return Eight(params.scale * ${array}[at], params.scale * ${array}[at + 1u]);`
    : `
  let at = row * ${width}u + head * ${headStride}u + ${start}u;
  var eight: Eight;
  for (var j = 0u; j < ${UNIT}u; j++) {
    let number = unit * ${UNIT}u + j;
    if (number >= ${dim}u) { break; }
    let value = params.scale * ${array}[at + number];
    if (j < 4u) { eight.a[j] = value; } else { eight.b[j - 4u] = value; }
  }
  return eight;`;
  return `
fn query_${name}_8(row: u32, head: u32, unit: u32) -> Eight {${body}
}`;
}

/** WGSL that rows and segments share: which positions a row sees, and how weights are made. */
export const SOFTMAX = `
// Below any score: that of a token that is not seen.
const LOWEST = -3.0e38;
fn first_seen(position: u32) -> u32 {
  return position + 1u - min(position + 1u, params.window);
}
fn page_of(row: u32, page: u32) -> u32 {
  return u32(page_tables[u32(sequences[row]) * params.tableWidth + page]) * ${PAGE_TOKENS}u;
}
// Exactly one for the largest score of all.
fn power(x: f32) -> f32 { return select(exp2(x), 1.0, x == 0.0); }
fn power4(x: vec4<f32>) -> vec4<f32> { return select(exp2(x), vec4<f32>(1.0), x == vec4<f32>(0.0)); }`;

/**
 * WGSL of `is_tile(row)`: whether the tile of a row is rows of one sequence, at least half as many as
 * fit. False for all where tiles have no rows.
 */
export function tilePredicate(tileRows: number): string {
  if (tileRows <= 1) return `\nfn is_tile(row: u32) -> bool { return ${tileRows === 1}; }`;
  return `
fn is_tile(row: u32) -> bool {
  let first = row - row % ${tileRows}u;
  let end = min(first + ${tileRows}u, params.rows);
  if (2u * (end - first) < ${tileRows}u) { return false; }
  for (var i = first + 1u; i < end; i++) {
    if (sequences[i] != sequences[first]) { return false; }
  }
  return true;
}`;
}

/** WGSL of `out_at` and `store_out(vector, quad, value)`: four of the values of head `vector % heads`. */
export function outValues({ dim }: { dim: number }): string {
  if (dim % 4 === 0) {
    return `
fn out_at(vector: u32, quad: u32) -> vec4<f32> { return out[vector * ${dim / 4}u + quad]; }
fn store_out(vector: u32, quad: u32, value: vec4<f32>) {
  if (quad < ${dim / 4}u) { out[vector * ${dim / 4}u + quad] = value; }
}`;
  }
  return `
fn out_at(vector: u32, quad: u32) -> vec4<f32> {
  var value: vec4<f32>;
  for (var j = 0u; j < min(4u, ${dim}u - quad * 4u); j++) {
    value[j] = out[vector * ${dim}u + quad * 4u + j];
  }
  return value;
}
fn store_out(vector: u32, quad: u32, value: vec4<f32>) {
  for (var j = 0u; j < 4u; j++) {
    if (quad * 4u + j < ${dim}u) { out[vector * ${dim}u + quad * 4u + j] = value[j]; }
  }
}`;
}

export function outBinding({ out, value }: Attention): Binding {
  const type = value.dim % 4 === 0 ? "array<vec4<f32>>" : "array<f32>";
  return { name: "out", buffer: out, type, write: true };
}

export function sinkBindings({ sinks }: Attention): Binding[] {
  return sinks === undefined ? [] : [{ name: "sinks", buffer: sinks }];
}

/**
 * WGSL of `merged(...)`, the sum of all segments so far and the next one's, and of `finished(...)`,
 * values divided by the sum of weights, a sink's included.
 */
export function merging({ sinks }: Attention): string {
  const finish = sinks === undefined ? "return value / total;" : `
  let above = fma(sinks[head], ${Math.fround(Math.LOG2E)}, -peak);
  let factor = power(-max(above, 0.0));
  return value * factor / fma(total, factor, power(min(above, 0.0)));`;
  return `
fn merged(sum: vec4<f32>, keep: f32, next: vec4<f32>, take: f32) -> vec4<f32> {
  return fma(sum, vec4<f32>(keep), next * take);
}
fn finished(value: vec4<f32>, peak: f32, total: f32, head: u32) -> vec4<f32> {${finish}
}`;
}
