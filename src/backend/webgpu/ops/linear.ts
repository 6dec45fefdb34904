/** Ops that multiply matrices with rows of activations: few rows and many have kernels of their own. */

import type { GatedLinearParams, HeadLinearParams, LinearParams } from "../../backend.ts";
import { bufferOf, weightOf } from "../memory.ts";
import type { OpContext } from "./context.ts";
import { useHalves } from "./half_products.ts";
import { halfRows } from "./half_rows.ts";
import { halfMatrixMatrix } from "./half_tiles.ts";
import { matrixMatrix } from "./matrix_matrix.ts";
import { integersFor } from "./integer_products.ts";
import { integerMatrixMatrix } from "./integer_tiles.ts";
import { canNorm, canRound, matrixVector } from "./matrix_vector.ts";
import { type Input, type Slice, slicesOf } from "./products.ts";
import { quantizedRows } from "./quantize.ts";
import { normedRows } from "./rows.ts";

/**
 * Rows up to which matrix-vector kernels take them, eight at a time, sooner than tiles do: for 16 rows and
 * 17920 x 1536 weights it was 70 us against 94 us on an H200.
 */
const FEW_ROWS = 16;

/**
 * The same where both are integers, and so for matrices of few rows: on an H200 64 rows of 1536 x 8960
 * weights took 48 us in eights and 76 us in tiles, those of 17920 x 1536 took 97 and 85 us.
 */
const FEW_INTEGER_ROWS = 32;
const FEW_INTEGER_ROWS_OF_SMALL = 64;
/** Rows of all matrices together. */
const SMALL_ROWS = 8192;

export function linear(context: OpContext, params: LinearParams): void {
  const slices = params.outputs.flatMap(({ weight, bias, out, accumulate, scale = 1 }) =>
    slicesOf([weightOf(weight)], {
      out: bufferOf(out).memory,
      bias: bias && weightOf(bias).parts[0].memory,
      add: accumulate,
      scale,
    })
  );
  multiply(context, params, slices);
}

export function gatedLinear(context: OpContext, params: GatedLinearParams): void {
  const { gate, up, out } = params;
  const weights = [weightOf(gate), weightOf(up)];
  multiply(context, params, slicesOf(weights, { out: bufferOf(out).memory, scale: 1 }));
}

export function headLinear(context: OpContext, params: HeadLinearParams): void {
  const { x, xStride, heads, rows } = params;
  const weight = weightOf(params.weight);
  const input: Input = {
    x: bufferOf(x).memory,
    width: x.width,
    rows,
    cols: weight.cols,
    heads: { outDim: weight.rows / heads, stride: xStride },
    maxBindings: context.maxBindings,
  };
  const slices = slicesOf([weight], { out: bufferOf(params.out).memory, scale: 1 });
  // A tile has rows of one head, and so would need to know where in a head a part starts.
  const many = rows > FEW_ROWS && slices.length === 1;
  const dispatches = many ? matrixMatrix(input, slices) : matrixVector(input, slices);
  for (const dispatch of dispatches) context.run(dispatch);
}

function multiply(
  context: OpContext,
  { x, norm, rows }: Pick<LinearParams, "x" | "norm" | "rows">,
  slices: readonly Slice[],
): void {
  const { maxBindings } = context;
  const integers = integersFor(context, slices.flatMap(({ matrices }) => matrices));
  if (integers !== undefined) {
    const source = { x: bufferOf(x).memory, width: x.width, rows, cols: x.width, maxBindings };
    if (norm === undefined && canRound(source, integers)) {
      const unrounded = { ...source, integers, unrounded: true };
      for (const dispatch of matrixVector(unrounded, slices)) context.run(dispatch);
      return;
    }
    const { memory } = quantizedRows(context, { x, norm, rows, bits: integers.bits });
    const records = { ...source, x: memory, integers };
    const outputs = slices.reduce((sum, { rows, matrices }) => sum + rows * matrices.length, 0);
    const few = outputs <= SMALL_ROWS ? FEW_INTEGER_ROWS_OF_SMALL : FEW_INTEGER_ROWS;
    const dispatches = rows <= few
      ? matrixVector(records, slices)
      : integerMatrixMatrix(records, slices);
    for (const dispatch of dispatches) context.run(dispatch);
    return;
  }
  const input = { x: bufferOf(x).memory, width: x.width, rows, cols: x.width, maxBindings };
  if (useHalves(context, slices.flatMap(({ matrices }) => matrices))) {
    const { memory, factors } = halfRows(context, { x, norm, rows });
    const rounded = { ...input, x: memory, factors };
    const dispatches = rows <= FEW_ROWS
      ? matrixVector(rounded, slices)
      : halfMatrixMatrix(rounded, slices);
    for (const dispatch of dispatches) context.run(dispatch);
    return;
  }
  if (norm !== undefined && canNorm(input, slices)) {
    for (const dispatch of matrixVector(input, slices, { norm })) context.run(dispatch);
    return;
  }
  const normed = { ...input, x: normedRows(context, { x, norm, rows }) };
  const dispatches = rows <= FEW_ROWS ? matrixVector(normed, slices) : matrixMatrix(normed, slices);
  for (const dispatch of dispatches) context.run(dispatch);
}
