/** Ops that multiply matrices with rows of activations. */

import type { GatedLinearParams, HeadLinearParams, LinearParams, Weight } from "../../backend.ts";
import { type Binding, BUILTINS, type Dispatch, WORKGROUP } from "../kernel.ts";
import { bufferOf, type GpuWeight, weightOf, type WeightPart } from "../memory.ts";
import { BLOCK, blocksOf, DECODE_COMMON } from "../weights/format.ts";
import type { OpContext } from "./context.ts";
import { normedRows } from "./rows.ts";
import { partBindings } from "./weights.ts";

/** Threads that share a row's sum. Each adds a run of blocks; their sums are added in order. */
export const ROW_LANES = 16;
/** Threads of a workgroup. */
const THREADS = 128;
/** Tokens that share a load of weights. */
const TOKENS = 8;

/** What becomes of a sum: `store` and `add` take bias and scale, `silu` is silu(out) * sum. */
type Epilogue = "store" | "add" | "silu";

interface Product {
  /** `[rows, xWidth]` */
  readonly x: GPUBuffer;
  readonly xWidth: number;
  readonly weight: GpuWeight;
  readonly bias?: Weight;
  readonly out: GPUBuffer;
  readonly epilogue: Epilogue;
  readonly scale: number;
  readonly rows: number;
  /** Weight rows that read the same values of `x`, and how far apart the next ones' are (`headLinear`). */
  readonly heads?: { readonly outDim: number; readonly xStride: number };
}

export function linear(context: OpContext, params: LinearParams): void {
  const { rows } = params;
  const x = normedRows(context, params);
  for (const { weight, bias, out, accumulate, scale = 1 } of params.outputs) {
    multiply(context, {
      x,
      xWidth: params.x.width,
      weight: weightOf(weight),
      bias,
      out: bufferOf(out).memory,
      epilogue: accumulate ? "add" : "store",
      scale,
      rows,
    });
  }
}

export function gatedLinear(context: OpContext, params: GatedLinearParams): void {
  const { rows } = params;
  const x = normedRows(context, params);
  const out = bufferOf(params.out).memory;
  const shared = { x, xWidth: params.x.width, out, scale: 1, rows };
  multiply(context, { ...shared, weight: weightOf(params.gate), epilogue: "store" });
  multiply(context, { ...shared, weight: weightOf(params.up), epilogue: "silu" });
}

export function headLinear(context: OpContext, params: HeadLinearParams): void {
  const { x, xStride, heads, rows } = params;
  const weight = weightOf(params.weight);
  multiply(context, {
    x: bufferOf(x).memory,
    xWidth: x.width,
    weight,
    out: bufferOf(params.out).memory,
    epilogue: "store",
    scale: 1,
    rows,
    heads: { outDim: weight.rows / heads, xStride },
  });
}

function multiply(context: OpContext, product: Product): void {
  for (const part of product.weight.parts) context.run(matrixVector(product, part));
}

/** Blocks that one of the threads of a row adds. */
export function laneBlocks(cols: number): number {
  return Math.ceil(blocksOf(cols) / ROW_LANES);
}

/** Weights times a few tokens: each thread has a run of one row's blocks and all tokens' values for it. */
function matrixVector(product: Product, part: WeightPart): Dispatch {
  const { x, xWidth, weight, bias, out, epilogue, scale, rows, heads } = product;
  const { cols } = weight;
  const tokens = Math.min(TOKENS, rows);
  const rowsEach = THREADS / ROW_LANES;
  const whole = cols % BLOCK === 0 && xWidth % 4 === 0 && (heads?.xStride ?? 0) % 4 === 0;
  const bindings: Binding[] = [
    ...partBindings("w", weight, part),
    { name: "x", buffer: x, type: whole ? "array<vec4<f32>>" : "array<f32>" },
    ...(bias ? [{ name: "bias", buffer: weightOf(bias).parts[0].memory }] : []),
    { name: "out", buffer: out, write: true },
  ];
  const base = heads === undefined
    ? "0u"
    : `((params.firstRow + row) / ${heads.outDim}u) * ${heads.xStride}u`;
  return {
    label: `linear ${weight.type} ${weight.rows}x${cols}`,
    bindings,
    params: {
      rows,
      firstRow: part.firstRow,
      partRows: part.rows,
      outRows: weight.rows,
      tiles: Math.ceil(rows / tokens),
      scale: { f32: scale },
    },
    workgroups: Math.ceil(part.rows / rowsEach) * Math.ceil(rows / tokens),
    code: `${DECODE_COMMON}${weight.format.decode("w", cols)}
const TOKENS = ${tokens}u;
var<workgroup> sums: array<f32, ${THREADS * tokens}>;
${loadEight(whole, cols)}
@compute @workgroup_size(${THREADS}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let first = (workgroup % params.tiles) * TOKENS;
  let row = (workgroup / params.tiles) * ${rowsEach}u + lane / ${ROW_LANES}u;
  var acc: array<f32, ${tokens}>;
  if (row < params.partRows) {
    let base = ${base};
    let start = (lane % ${ROW_LANES}u) * ${laneBlocks(cols) * 4}u;
    let end = min(start + ${laneBlocks(cols) * 4}u, ${blocksOf(cols) * 4}u);
    for (var unit = start; unit < end; unit++) {
      let weights = w_8(row, unit);
      for (var t = 0u; t < TOKENS; t++) {
        let values = x_8(min(first + t, params.rows - 1u) * ${xWidth}u + base, unit);
        acc[t] = dot_8(weights, values, acc[t]);
      }
    }
  }
  for (var t = 0u; t < TOKENS; t++) { sums[lane * TOKENS + t] = acc[t]; }
  workgroupBarrier();
  let t = lane % ${ROW_LANES}u;
  if (row >= params.partRows || t >= TOKENS || first + t >= params.rows) { return; }
  var sum = 0.0;
  for (var i = 0u; i < ${ROW_LANES}u; i++) {
    sum += sums[(lane / ${ROW_LANES}u * ${ROW_LANES}u + i) * TOKENS + t];
  }
  let column = params.firstRow + row;
  let at = (first + t) * params.outRows + column;
  ${EPILOGUES[epilogue](bias === undefined ? "" : " + bias[column]")}
}`,
  };
}

const EPILOGUES: Record<Epilogue, (bias: string) => string> = {
  store: (bias) => `out[at] = params.scale * (sum${bias});`,
  add: (bias) => `out[at] += params.scale * (sum${bias});`,
  silu: () => `let gate = out[at]; out[at] = gate / (1.0 + exp(-gate)) * sum;`,
};

/** WGSL of `x_8(base, unit)`, eight values of a row from `base` on, and `dot_8`, their sum in order. */
export function loadEight(whole: boolean, cols: number): string {
  const load = whole
    ? `let at = base / 4u + unit * 2u; return Eight(x[at], x[at + 1u]);`
    : `var eight: Eight;
  for (var j = 0u; j < 8u; j++) {
    let column = unit * 8u + j;
    if (column >= ${cols}u) { break; }
    if (j < 4u) { eight.a[j] = x[base + column]; } else { eight.b[j - 4u] = x[base + column]; }
  }
  return eight;`;
  return `
fn x_8(base: u32, unit: u32) -> Eight { ${load} }
fn dot_8(w: Eight, v: Eight, start: f32) -> f32 {
  var sum = fma(w.a.x, v.a.x, start);
  sum = fma(w.a.y, v.a.y, sum);
  sum = fma(w.a.z, v.a.z, sum);
  sum = fma(w.a.w, v.a.w, sum);
  sum = fma(w.b.x, v.b.x, sum);
  sum = fma(w.b.y, v.b.y, sum);
  sum = fma(w.b.z, v.b.z, sum);
  return fma(w.b.w, v.b.w, sum);
}`;
}
