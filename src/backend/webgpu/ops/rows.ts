/** Ops that treat each row by itself: embedding, norm, gathering, adding. */

import type {
  AddParams,
  Buffer,
  EmbedParams,
  GatherRowsParams,
  Norm,
  RmsNormParams,
} from "../../backend.ts";
import { BUILTINS, type Dispatch, WORKGROUP } from "../kernel.ts";
import { bufferOf, weightOf } from "../memory.ts";
import { DECODE_COMMON } from "../weights/format.ts";
import type { OpContext } from "./context.ts";
import { NORM_LANES, normBinding, normFactors, normMemory, normParams } from "./norm.ts";
import { partBindings } from "./weights.ts";

/** Threads of a workgroup that copies. */
const LANES = 64;

export function embed(context: OpContext, params: EmbedParams): void {
  const table = weightOf(params.table);
  const { rows, scale = 1 } = params;
  const { cols } = table;
  const units = Math.ceil(cols / 8);
  const whole = cols % 8 === 0;
  for (const part of table.parts) {
    context.run({
      label: "embed",
      bindings: [
        ...partBindings("w", table, part),
        { name: "ids", buffer: bufferOf(params.ids).memory, type: "array<i32>" },
        {
          name: "out",
          buffer: bufferOf(params.out).memory,
          type: whole ? "array<vec4<f32>>" : undefined,
          write: true,
        },
      ],
      params: { rows, firstRow: part.firstRow, partRows: part.rows, scale: { f32: scale } },
      workgroups: Math.ceil(rows * units / LANES),
      code: `${DECODE_COMMON}${table.format.decode("w", cols)}
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let i = workgroup * ${LANES}u + lane;
  let t = i / ${units}u;
  if (t >= params.rows) { return; }
  let id = u32(ids[t]) - params.firstRow;
  if (id >= params.partRows) { return; }
  let unit = i % ${units}u;
  let eight = w_8(id, unit);
${
        whole
          ? `  out[i * 2u] = eight.a * params.scale;
  out[i * 2u + 1u] = eight.b * params.scale;`
          : `  for (var j = 0u; j < 8u; j++) {
    let column = unit * 8u + j;
    if (column >= ${cols}u) { return; }
    let value = select(eight.b[j & 3u], eight.a[j & 3u], j < 4u);
    out[t * ${cols}u + column] = value * params.scale;
  }`
      }
}`,
    });
  }
}

export function rmsNorm(context: OpContext, params: RmsNormParams): void {
  const { x, out, rows } = params;
  context.run(
    normDispatch({
      x: bufferOf(x).memory,
      out: bufferOf(out).memory,
      width: x.width,
      rows,
      norm: params,
    }),
  );
}

/** Norms rows from `x` to `out`, which may be the same. */
function normDispatch(
  { x, out, width, rows, norm }: {
    x: GPUBuffer;
    out: GPUBuffer;
    width: number;
    rows: number;
    norm: Norm;
  },
): Dispatch {
  const inPlace = x === out;
  const from = inPlace ? "out" : "x";
  const whole = width % 4 === 0;
  const type = whole ? "array<vec4<f32>>" : "array<f32>";
  return {
    label: "rmsNorm",
    bindings: [
      ...(inPlace ? [] : [{ name: "x", buffer: x, type }]),
      { name: "out", buffer: out, type, write: true },
      normBinding(norm, "weight"),
    ],
    params: { rows, ...normParams(norm) },
    workgroups: rows,
    code: `
var<workgroup> sums: array<f32, ${NORM_LANES}>;
${normMemory(1)}
fn vector(base: u32, i: u32) -> vec4<f32> {
${
      whole ? `  return ${from}[base + i];` : `  var v: vec4<f32>;
  for (var j = 0u; j < min(4u, ${width}u - i * 4u); j++) { v[j] = ${from}[base + i * 4u + j]; }
  return v;`
    }
}
@compute @workgroup_size(${NORM_LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  if (workgroup >= params.rows) { return; }
  let base = workgroup * ${whole ? width / 4 : width}u;
${normFactors({ rows: 1, width, load: () => "vector(base, i)" })}
  for (var i = lane; i < ${whole ? width / 4 : width}u; i += ${NORM_LANES}u) {
    out[base + i] = ${from}[base + i] * factor0 * weight[i];
  }
}`,
  };
}

/** What a product reads: the rows of `x`, or those after their norm, in scratch. */
export function normedRows(
  context: OpContext,
  { x, norm, rows }: { x: Buffer; norm?: Norm; rows: number },
): GPUBuffer {
  const { memory } = bufferOf(x);
  if (norm === undefined) return memory;
  const out = context.scratch("normed", rows * x.width * 4);
  context.run(normDispatch({ x: memory, out, width: x.width, rows, norm }));
  return out;
}

export function gatherRows(context: OpContext, params: GatherRowsParams): void {
  const { x, indices, out } = params;
  const count = params.rows * indices.width * x.width;
  context.run({
    label: "gatherRows",
    bindings: [
      // Bits of either kind.
      { name: "x", buffer: bufferOf(x).memory, type: "array<u32>" },
      { name: "indices", buffer: bufferOf(indices).memory, type: "array<i32>" },
      { name: "out", buffer: bufferOf(out).memory, type: "array<u32>", write: true },
    ],
    params: { count, width: x.width },
    workgroups: Math.ceil(count / LANES),
    code: `
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let i = workgroup * ${LANES}u + lane;
  if (i >= params.count) { return; }
  out[i] = x[u32(indices[i / params.width]) * params.width + i % params.width];
}`,
  });
}

export function add(context: OpContext, { x, out, rows }: AddParams): void {
  const count = rows * x.width;
  context.run({
    label: "add",
    bindings: [
      { name: "x", buffer: bufferOf(x).memory },
      { name: "out", buffer: bufferOf(out).memory, write: true },
    ],
    params: { count },
    workgroups: Math.ceil(count / LANES),
    code: `
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let i = workgroup * ${LANES}u + lane;
  if (i < params.count) { out[i] += x[i]; }
}`,
  });
}
