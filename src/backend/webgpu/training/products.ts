/** The two products of a matrix's backward pass: NN for its input's gradient, TN for its own. */

import type { Buffer } from "../../backend.ts";
import type { HeadLinearBackwardParams, LinearBackwardParams } from "../../training_params.ts";
import type { OpContext } from "../ops/context.ts";
import { bufferOf } from "../memory.ts";
import { each, reads, writes } from "./arrays.ts";
import { addColumnSums } from "./columns.ts";
import { roundedCopy } from "./halves.ts";
import type { GpuParameter, Trained } from "./parameters.ts";
import { enoughTiles, product, type Side as TileSide, sideOf, tilesOf } from "./product.ts";
import { fillValues } from "./rows.ts";

/** Rows of activations: that of `row` and `head` begins at `row * stride + head * each`. */
export interface Side {
  readonly memory: GPUBuffer;
  readonly stride: number;
  /** From one head to the next; 0 where there is one. */
  readonly each: number;
  /** Whether its numbers are halves; float32 by default. */
  readonly halves?: boolean;
}

/** A matrix `[heads * outDim, cols]`, of whose heads each has an input and an output of its own. */
interface Shape {
  readonly heads: number;
  readonly outDim: number;
  readonly cols: number;
  readonly rows: number;
  readonly scale: number;
}

/** Results of which many products are added are cut up, into sums of at least so many. */
const LEAST_SPLIT = 512;

/** Whether kernels can go through all of them in vectors of four. */
export function areFours(...numbers: readonly number[]): boolean {
  return numbers.every((number) => number % 4 === 0);
}

function numbersOf({ stride, each }: Side): number[] {
  return [stride, each];
}

/** WGSL of a tile's place in one of several results of `m` rows and `n` columns. */
function placeOf(side: number): string {
  return `
  let head = workgroup / params.tiles;
  if (head >= params.heads) { return; }
  let tile = workgroup % params.tiles;
  let m0 = tile / params.across * ${side}u;
  let n0 = tile % params.across * ${side}u;`;
}

/** target[t, h, c] (+)= scale * sum over o of gradient[t, h, o] weight[h * outDim + o, c] */
export function addInputGradient(
  context: OpContext,
  weight: GpuParameter,
  options: Shape & { gradient: Side; target: Side; accumulate: boolean },
): void {
  const { heads, outDim, cols, rows, scale, gradient, target, accumulate } = options;
  const shape = { rows, cols };
  const side = sideOf({ ...shape, count: heads });
  const tiles = tilesOf(side, shape);
  context.run(product({
    label: `input gradient ${outDim}x${cols}`,
    side,
    arrays: {
      gradient: reads(gradient.memory),
      weight: reads(weight.stored),
      out: writes(target.memory),
    },
    params: {
      ...{ rows, heads, tiles, across: Math.ceil(cols / side), out_dim: outDim, cols },
      ...{ weight_stride: weight.stride, gradient_stride: gradient.stride },
      ...{ gradient_each: gradient.each, out_stride: target.stride, out_each: target.each },
      scale: { f32: scale },
    },
    workgroups: heads * tiles,
    place: () =>
      `${placeOf(side)}
  let m_end = params.rows;
  let n_end = params.cols;
  let k0 = 0u;
  let k_end = params.out_dim;`,
    a: {
      array: "gradient",
      along: "k",
      halves: gradient.halves,
      base: (_, m) => `${m} * params.gradient_stride + head * params.gradient_each`,
    },
    b: {
      array: "weight",
      along: "side",
      halves: weight.isRounded,
      base: (_, k) => `(head * params.out_dim + ${k}) * params.weight_stride`,
    },
    whole: areFours(outDim, cols, ...numbersOf(gradient), ...numbersOf(target)),
    out: {
      array: "out",
      place: (_, m, n) => `${m} * params.out_stride + head * params.out_each + ${n}`,
      value: (sum, { old, type }) =>
        accumulate ? `fma(${type}(params.scale), ${sum}, ${old})` : `params.scale * ${sum}`,
    },
  }));
}

/** How many sums a result's products are cut up into, by its shape alone. */
function splitsOf(
  { side, tiles, terms }: { side: TileSide; tiles: number; terms: number },
): { splits: number; each: number } {
  const most = Math.floor(enoughTiles(side) / tiles);
  const splits = Math.max(1, Math.min(most, Math.floor(terms / LEAST_SPLIT)));
  return { splits, each: Math.ceil(terms / splits / 16) * 16 };
}

/** gradient of weight[h * outDim + o, c] += scale * sum over t of gradient[t, h, o] x[t, h, c] */
export function addWeightGradient(
  context: OpContext,
  weight: GpuParameter,
  options: Shape & { gradient: Side; x: Side },
): void {
  if (weight.gradient === null) return;
  const { heads, outDim, cols, rows, scale, gradient, x } = options;
  const shape = { rows: outDim, cols };
  // Small tiles read more; rows can be cut up instead.
  const most = Math.max(1, Math.floor(rows / LEAST_SPLIT));
  const side = sideOf({ ...shape, count: heads * most });
  const tiles = tilesOf(side, shape);
  const { splits, each: terms } = splitsOf({ side, tiles: tiles * heads, terms: rows });
  const numbers = heads * outDim * weight.stride;
  const isCut = splits > 1;
  const out = isCut ? context.scratch("sums of products", splits * numbers * 4) : weight.gradient;
  context.run(product({
    label: `weight gradient ${outDim}x${cols}`,
    side,
    arrays: {
      gradient: reads(gradient.memory),
      x: reads(x.memory),
      out: writes(out),
    },
    params: {
      ...{ rows, heads: heads * splits, real_heads: heads, tiles, terms, numbers },
      ...{ across: Math.ceil(cols / side), out_dim: outDim, cols, weight_stride: weight.stride },
      ...{ gradient_stride: gradient.stride, gradient_each: gradient.each },
      ...{ x_stride: x.stride, x_each: x.each, scale: { f32: scale } },
    },
    workgroups: heads * splits * tiles,
    place: () =>
      `${placeOf(side)}
  let split = head / params.real_heads;
  let real_head = head % params.real_heads;
  let m_end = params.out_dim;
  let n_end = params.cols;
  let k0 = split * params.terms;
  let k_end = min(k0 + params.terms, params.rows);`,
    a: {
      array: "gradient",
      along: "side",
      halves: gradient.halves,
      base: (_, k) => `${k} * params.gradient_stride + real_head * params.gradient_each`,
    },
    b: {
      array: "x",
      along: "side",
      halves: x.halves,
      base: (_, k) => `${k} * params.x_stride + real_head * params.x_each`,
    },
    whole: areFours(outDim, cols, ...numbersOf(gradient), ...numbersOf(x)),
    out: {
      array: "out",
      place: (_, m, n) =>
        `${isCut ? "split * params.numbers + " : ""}` +
        `(real_head * params.out_dim + ${m}) * params.weight_stride + ${n}`,
      value: (sum, { old, type }) =>
        isCut ? `params.scale * ${sum}` : `fma(${type}(params.scale), ${sum}, ${old})`,
    },
  }));
  if (isCut) addSums(context, weight, { sums: out, splits });
}

/** Adds sums that a parameter's gradient was cut up into, `[splits, padded]`, in their order. */
export function addSums(
  context: OpContext,
  weight: GpuParameter,
  { sums, splits }: { sums: GPUBuffer; splits: number },
): void {
  const { cols, stride, padded: numbers } = weight;
  each(context, {
    label: "weight gradient, sums",
    arrays: { sums: reads(sums), out: writes(weight.slot("gradient")) },
    params: { splits, cols, stride, numbers },
    count: numbers / stride * cols,
    body: (names) => `
  let place = i / params.cols * params.stride + i % params.cols;
  var sum = 0.0;
  for (var split = 0u; split < params.splits; split++) {
    sum += ${names.sums}[split * params.numbers + place];
  }
  ${names.out}[place] += sum;`,
  });
}

function rowsOf(buffer: Buffer): Side {
  return { memory: bufferOf(buffer).memory, stride: buffer.width, each: 0 };
}

/** Rows as products with weights in halves read them. */
function rounded(
  context: OpContext,
  side: Side,
  { name, rows }: { name: string; rows: number },
): Side {
  const count = rows * side.stride;
  const memory = roundedCopy(context, name, { from: side.memory, count });
  return { ...side, memory, halves: true };
}

export function linearBackward(
  context: OpContext,
  params: LinearBackwardParams,
  trained: Trained,
): void {
  const { outputs, target, rows } = params;
  const isRounded = outputs.some(({ weight }) => trained.parameterOf(weight).isRounded);
  const asRead = (name: string, of: Buffer) =>
    isRounded ? rounded(context, rowsOf(of), { name, rows }) : rowsOf(of);
  const x = asRead("inputs", params.x);
  for (const [i, { weight: of, bias, scale = 1, outGradient }] of outputs.entries()) {
    const weight = trained.parameterOf(of);
    const shape = { heads: 1, outDim: of.rows, cols: of.cols, rows, scale };
    const gradient = asRead("gradients", outGradient);
    const accumulate = target.accumulate || i > 0;
    const inputs = { target: rowsOf(target.buffer), accumulate };
    addInputGradient(context, weight, { ...shape, gradient, ...inputs });
    addWeightGradient(context, weight, { ...shape, gradient, x });
    if (bias === undefined) continue;
    addColumnSums(context, {
      label: "bias gradient",
      arrays: { gradient: reads(outGradient) },
      params: { scale: { f32: scale } },
      rows,
      cols: of.rows,
      into: trained.parameterOf(bias).gradient,
      value: ({ gradient }) => `
    let value = params.scale * ${gradient}[row * params.cols + col];`,
    });
  }
}

export function headLinearBackward(
  context: OpContext,
  params: HeadLinearBackwardParams,
  trained: Trained,
): void {
  const { x, xStride, heads, outGradient, target, rows } = params;
  const weight = trained.parameterOf(params.weight);
  const outDim = params.weight.rows / heads;
  const shape = { heads, outDim, cols: params.weight.cols, rows, scale: 1 };
  const asRead = (name: string, side: Side) =>
    weight.isRounded ? rounded(context, side, { name, rows }) : side;
  const gradient = asRead("gradients", { ...rowsOf(outGradient), each: outDim });
  const ofHeads = (buffer: Buffer) => ({ ...rowsOf(buffer), each: xStride });
  // Between the heads' inputs lie others, to which nothing is added.
  const isWhole = xStride === shape.cols;
  if (!target.accumulate && !isWhole) {
    const { memory } = bufferOf(target.buffer);
    fillValues(context, memory, { count: rows * heads * xStride, value: 0 });
  }
  const accumulate = target.accumulate || !isWhole;
  const inputs = { target: ofHeads(target.buffer), accumulate };
  addInputGradient(context, weight, { ...shape, gradient, ...inputs });
  addWeightGradient(context, weight, { ...shape, gradient, x: asRead("inputs", ofHeads(x)) });
}
