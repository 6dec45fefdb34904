/**
 * The routed experts. A few pairs of a row and one of its experts are computed each by itself
 * (`expert_pairs.ts`); many are sorted by expert on the device, and rows share loads of its weights
 * (`expert_tiles.ts`). Both give the same bits: products are added as `products.ts` says, and a row's
 * experts in the order of their ids.
 */

import type { ExpertsParams } from "../../backend.ts";
import { bufferOf, expertsOf, type GpuWeight } from "../memory.ts";
import type { OpContext } from "./context.ts";
import { activatedIntegerTiles, downIntegerTiles } from "./expert_integer_tiles.ts";
import { activatedPairs, addedPairs, canRoundPairs } from "./expert_pairs.ts";
import { addedValues } from "./expert_sums.ts";
import { sortByExpert, tokensOfIntegerTile, tokensOfTile } from "./expert_sort.ts";
import { activatedTiles, downTiles } from "./expert_tiles.ts";
import { integersFor } from "./integer_products.ts";
import { checkExpertCount } from "./moe_common.ts";
import { type Integers, quantizedMemory } from "./quantize.ts";

/** Pairs up to which each is computed by itself. */
export const FEW_PAIRS = 64;
/** Bytes of each buffer of many rows' values, as every adapter can bind; more rows are cut in parts. */
const WORKSPACE_BYTES = 128 << 20;

/** Rows of the op that are computed together. */
export interface ExpertRows extends ExpertsParams {
  readonly firstRow: number;
  /** f32 [rows * topK, intermediate]: activations of row t's slot j at t * topK + j */
  readonly middle: GPUBuffer;
  /** What the first product reads of `x`, from its first row on. */
  readonly input: ExpertInput;
}

/** What a product reads: rows of float32, or records of integers. */
export interface ExpertInput {
  readonly x: GPUBuffer;
  readonly integers?: Integers;
  /** Whether `x` has float32 still, of which the kernel makes records. */
  readonly unrounded?: boolean;
}

export function experts(
  context: OpContext,
  params: ExpertsParams,
  { workspaceBytes = WORKSPACE_BYTES }: { workspaceBytes?: number } = {},
): void {
  const { count, hidden, intermediate } = expertsOf(params.experts);
  const { rows, topK } = params;
  checkExpertCount("experts", count);
  const middleOf = (rows: number) =>
    context.scratch("experts' activations", rows * topK * intermediate * 4);
  const { gate, up, down } = expertsOf(params.experts);
  const input = inputFor(context, [gate, up], {
    ...{ x: bufferOf(params.x).memory, rows, cols: hidden },
  });
  if (rows * topK <= FEW_PAIRS) {
    const step = { ...params, firstRow: 0, middle: middleOf(rows), input };
    for (const dispatch of activatedPairs(step)) context.run(dispatch);
    const integers = integersFor(context, [{ weight: down }]);
    const rounds = integers !== undefined && canRoundPairs({ intermediate, topK }, integers);
    const middle = rounds
      ? { x: step.middle, integers, unrounded: true }
      : middleFor(context, step, down);
    for (const dispatch of addedPairs(step, middle)) context.run(dispatch);
    return;
  }
  const rowBytes = topK * Math.max(hidden, intermediate) * 4;
  const most = Math.max(1, Math.floor(workspaceBytes / rowBytes));
  for (let firstRow = 0; firstRow < rows; firstRow += most) {
    const part = Math.min(most, rows - firstRow);
    many(context, { ...params, rows: part, firstRow, middle: middleOf(part), input });
  }
}

function many(context: OpContext, step: ExpertRows): void {
  const { rows, topK, input, experts: { count, hidden } } = step;
  const { down } = expertsOf(step.experts);
  const integers = input.integers ?? integersFor(context, [{ weight: down }]);
  const tokensOf = integers === undefined ? tokensOfTile : tokensOfIntegerTile;
  const tokens = tokensOf(rows * topK, count);
  const schedule = sortByExpert(context, {
    expertIds: bufferOf(step.expertIds).memory,
    firstPair: step.firstRow * topK,
    pairs: rows * topK,
    count,
    tokens,
  });
  const values = context.scratch("experts' values", rows * topK * hidden * 4);
  const activated = input.integers === undefined
    ? activatedTiles(step, schedule)
    : activatedIntegerTiles(step, schedule);
  for (const dispatch of activated) context.run(dispatch);
  const middle = middleFor(context, step, down);
  const products = middle.integers === undefined
    ? downTiles(step, schedule, values)
    : downIntegerTiles(step, schedule, { input: middle, values });
  for (const dispatch of products) context.run(dispatch);
  context.run(addedValues(step, values));
}

/** What the second product reads, once the first one has run. */
function middleFor(context: OpContext, step: ExpertRows, down: GpuWeight): ExpertInput {
  const { middle, rows, topK, experts: { intermediate } } = step;
  const source = { x: middle, rows: rows * topK, cols: intermediate };
  return inputFor(context, [down], { ...source, name: "experts' activations as integers" });
}

/** Rows as the product with these matrices reads them: as they are, or rounded into scratch. */
function inputFor(
  context: OpContext,
  matrices: readonly GpuWeight[],
  source: { x: GPUBuffer; rows: number; cols: number; name?: string },
): ExpertInput {
  const integers = integersFor(context, matrices.map((weight) => ({ weight })));
  if (integers === undefined) return { x: source.x };
  return { x: quantizedMemory(context, { ...source, bits: integers.bits }).memory, integers };
}
