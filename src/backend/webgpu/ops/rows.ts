/** Ops that treat each row by itself: embedding, norm, gathering. */

import type { Buffer, EmbedParams, GatherRowsParams, Norm, RmsNormParams } from "../../backend.ts";
import { BUILTINS, type Dispatch, WORKGROUP } from "../kernel.ts";
import { bufferOf, weightOf } from "../memory.ts";
import { DECODE_COMMON } from "../weights/format.ts";
import type { OpContext } from "./context.ts";
import { partBindings } from "./weights.ts";

/** Threads that norm a row together. */
const LANES = 64;

export function embed(context: OpContext, params: EmbedParams): void {
  const table = weightOf(params.table);
  const { rows, scale = 1 } = params;
  const units = Math.ceil(table.cols / 8);
  for (const part of table.parts) {
    context.run({
      label: "embed",
      bindings: [
        ...partBindings("w", table, part),
        { name: "ids", buffer: bufferOf(params.ids).memory, type: "array<i32>" },
        { name: "out", buffer: bufferOf(params.out).memory, write: true },
      ],
      params: { rows, firstRow: part.firstRow, partRows: part.rows, scale: { f32: scale } },
      workgroups: Math.ceil(rows * units / LANES),
      code: `${DECODE_COMMON}${table.format.decode("w", table.cols)}
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let i = workgroup * ${LANES}u + lane;
  let t = i / ${units}u;
  if (t >= params.rows) { return; }
  let id = u32(ids[t]) - params.firstRow;
  if (id >= params.partRows) { return; }
  let unit = i % ${units}u;
  let eight = w_8(id, unit);
  for (var j = 0u; j < 8u; j++) {
    let column = unit * 8u + j;
    if (column >= ${table.cols}u) { return; }
    let value = select(eight.b[j & 3u], eight.a[j & 3u], j < 4u);
    out[t * ${table.cols}u + column] = value * params.scale;
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
  return {
    label: "rmsNorm",
    bindings: [
      ...(inPlace ? [] : [{ name: "x", buffer: x }]),
      { name: "out", buffer: out, write: true },
      { name: "weight", buffer: weightOf(norm.weight).parts[0].memory },
    ],
    params: { rows, width, eps: { f32: norm.eps } },
    workgroups: rows,
    code: `
var<workgroup> squares: array<f32, ${LANES}>;
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  if (workgroup >= params.rows) { return; }
  let base = workgroup * params.width;
  var sum = 0.0;
  for (var i = lane; i < params.width; i += ${LANES}u) {
    sum = fma(${from}[base + i], ${from}[base + i], sum);
  }
  squares[lane] = sum;
  workgroupBarrier();
  for (var half = ${LANES / 2}u; half > 0u; half /= 2u) {
    if (lane < half) { squares[lane] += squares[lane + half]; }
    workgroupBarrier();
  }
  let factor = 1.0 / sqrt(squares[0] / f32(params.width) + params.eps);
  for (var i = lane; i < params.width; i += ${LANES}u) {
    out[base + i] = ${from}[base + i] * factor * weight[i];
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
  const width = params.x.width;
  context.run({
    label: "gatherRows",
    bindings: [
      { name: "x", buffer: bufferOf(params.x).memory },
      { name: "indices", buffer: bufferOf(params.indices).memory, type: "array<i32>" },
      { name: "out", buffer: bufferOf(params.out).memory, write: true },
    ],
    params: { count: params.rows * width, width },
    workgroups: Math.ceil(params.rows * width / LANES),
    code: `
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let i = workgroup * ${LANES}u + lane;
  if (i >= params.count) { return; }
  out[i] = x[u32(indices[i / params.width]) * params.width + i % params.width];
}`,
  });
}
