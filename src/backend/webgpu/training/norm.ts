/** Backward passes of norms and rotations. */

import type { Norm } from "../../backend.ts";
import type * as params from "../../training_params.ts";
import { bufferOf } from "../memory.ts";
import type { OpContext } from "../ops/context.ts";
import { each, kernel, reads, total, totalMemory, writes } from "./arrays.ts";
import { addColumnSums } from "./columns.ts";
import type { Trained } from "./parameters.ts";

/** Threads that share a row's sums. */
const LANES = 64;

/** Rows of `width` numbers, each `stride` behind the one before. */
interface Rows {
  readonly count: number;
  readonly width: number;
  readonly stride: number;
}

export function rmsNormBackward(
  context: OpContext,
  params: params.RmsNormBackwardParams,
  trained: Trained,
): void {
  const { x, outGradient, target, rows } = params;
  const { width } = x;
  normBackward(context, params, {
    ...{ trained, rows: { count: rows, width, stride: width } },
    ...{ x: bufferOf(x).memory, gradient: bufferOf(outGradient).memory },
    ...{ out: bufferOf(target.buffer).memory, accumulate: target.accumulate },
  });
}

/**
 * Of y = x / rms(x) * weight: gradient(x_i) = r (w_i g_i - x_i r^2 mean(w g x)), where r = 1 / rms(x), and
 * the weight's gradient is the sum of g_i x_i r. `out` may be `gradient`.
 */
export function normBackward(
  context: OpContext,
  norm: Norm,
  options: {
    trained: Trained;
    rows: Rows;
    x: GPUBuffer;
    gradient: GPUBuffer;
    out: GPUBuffer;
    accumulate: boolean;
  },
): void {
  const { rows: { count, width, stride }, x, gradient, out, accumulate } = options;
  const weight = options.trained.parameterOf(norm.weight);
  const stats = context.scratch("norms' sums", count * 8);
  context.run(kernel({
    label: "norm sums",
    arrays: {
      ...{ x: reads(x), gradient: reads(gradient), weight: reads(weight.value) },
      stats: writes(stats),
    },
    params: { rows: count, width, stride, eps: { f32: norm.eps } },
    workgroups: count,
    threads: LANES,
    declare: () => totalMemory(LANES),
    body: (names) => `
  if (workgroup >= params.rows) { return; }
  var square = 0.0;
  var product = 0.0;
  for (var i = lane; i < params.width; i += ${LANES}u) {
    let value = ${names.x}[workgroup * params.stride + i];
    square = fma(value, value, square);
    product = fma(
      ${names.weight}[i] * ${names.gradient}[workgroup * params.stride + i], value, product);
  }
${total("squares", { threads: LANES, value: "square" })}
${total("products", { threads: LANES, value: "product" })}
  if (lane == 0u) {
    let r = 1.0 / sqrt(squares / f32(params.width) + params.eps);
    ${names.stats}[workgroup * 2u] = r;
    ${names.stats}[workgroup * 2u + 1u] = r * r * products / f32(params.width);
  }`,
  }));
  addColumnSums(context, {
    label: "norm gradient",
    arrays: {
      ...{ x: reads(x), gradient: reads(gradient), weight: reads(weight.value) },
      ...{ stats: reads(stats), out: writes(out) },
    },
    params: { stride },
    ...{ rows: count, cols: width, into: weight.gradient, always: true },
    value: (names) => `
    let at = row * params.stride + col;
    let r = ${names.stats}[row * 2u];
    let x = ${names.x}[at];
    let g = ${names.gradient}[at];
    let value = g * x * r;
    let back = r * (${names.weight}[col] * g - x * ${names.stats}[row * 2u + 1u]);
    ${names.out}[at] = ${accumulate ? `${names.out}[at] + back` : "back"};`,
  });
}

/** Turns a part of each of several heads a row back by the row's angles, from one array to another. */
export function rotateBack(
  context: OpContext,
  options: {
    from: GPUBuffer;
    to: GPUBuffer;
    cosSin: params.RotateAndCacheBackwardParams["cosSin"];
    pairing: "halves" | "interleaved";
    heads: number;
    /** Numbers from one head to the next, and before the part that is rotated. */
    stride: number;
    offset: number;
    rows: number;
  },
): void {
  const { from, to, cosSin, pairing, heads, stride, offset, rows } = options;
  const pairs = cosSin.width / 2;
  const isHalves = pairing === "halves";
  each(context, {
    label: "rotation backward",
    arrays: { cosSin: reads(cosSin), from: reads(from), to: writes(to) },
    params: { heads, stride, offset },
    count: rows * heads * pairs,
    body: (names) => `
  let pair = i % ${pairs}u;
  let head = i / ${pairs}u;
  let row = head / params.heads;
  let base = head * params.stride + params.offset;
  let first = base + ${isHalves ? "pair" : "2u * pair"};
  let second = base + ${isHalves ? `pair + ${pairs}u` : "2u * pair + 1u"};
  let cosine = ${names.cosSin}[row * ${2 * pairs}u + pair];
  let sine = ${names.cosSin}[row * ${2 * pairs}u + ${pairs}u + pair];
  let a = ${names.from}[first];
  let b = ${names.from}[second];
  ${names.to}[first] = fma(a, cosine, b * sine);
  ${names.to}[second] = fma(b, cosine, -(a * sine));`,
  });
}

export function rotateAndCacheBackward(
  context: OpContext,
  params: params.RotateAndCacheBackwardParams,
  trained: Trained,
): void {
  const { cosSin, pairing, rows } = params;
  for (
    const { of, heads, norm } of [
      { of: params.qGradient, heads: params.heads, norm: params.qNorm },
      { of: params.kGradient, heads: params.kvHeads, norm: params.kNorm },
    ]
  ) {
    const { memory } = bufferOf(of);
    const stride = of.width / heads;
    const turn = { cosSin, pairing, heads, stride, offset: 0, rows };
    rotateBack(context, { ...turn, from: memory, to: memory });
    if (norm === undefined) continue;
    normBackward(context, norm, {
      ...{ trained, rows: { count: rows * heads, width: stride, stride } },
      ...{ x: bufferOf(norm.x).memory, gradient: memory, out: memory, accumulate: false },
    });
  }
}

export function rotateAndCacheLatentBackward(
  context: OpContext,
  params: params.RotateAndCacheLatentBackwardParams,
  trained: Trained,
): void {
  const { kv, latentNorm, heads, nopeDim, cosSin, pairing, rows } = params;
  const ropeDim = cosSin.width;
  const latentDim = kv.width - ropeDim;
  const queries = bufferOf(params.qGradient).memory;
  const gradient = bufferOf(params.tokensGradient).memory;
  const out = bufferOf(params.kvGradient).memory;
  const turn = { cosSin, pairing, rows };
  const stride = nopeDim + ropeDim;
  rotateBack(context, { ...turn, from: queries, to: queries, heads, stride, offset: nopeDim });
  const key = { heads: 1, stride: kv.width, offset: latentDim };
  rotateBack(context, { ...turn, from: gradient, to: out, ...key });
  normBackward(context, latentNorm, {
    ...{ trained, rows: { count: rows, width: latentDim, stride: kv.width } },
    ...{ x: bufferOf(kv).memory, gradient, out, accumulate: false },
  });
}
