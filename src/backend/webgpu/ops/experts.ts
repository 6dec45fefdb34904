/**
 * The routed experts. A few pairs of a row and one of its experts are computed each by itself
 * (`expert_pairs.ts`); many are sorted by expert on the device, and rows share loads of its weights
 * (`expert_tiles.ts`). Both give the same bits: products are added as `products.ts` says, and a row's
 * experts in the order of their ids.
 */

import type { ExpertsParams } from "../../backend.ts";
import { bufferOf, expertsOf } from "../memory.ts";
import type { OpContext } from "./context.ts";
import { activatedPairs, addedPairs } from "./expert_pairs.ts";
import { sortByExpert, tokensOfTile } from "./expert_sort.ts";
import { activatedTiles, addedValues, downTiles } from "./expert_tiles.ts";
import { checkExpertCount } from "./moe_common.ts";

/** Pairs up to which each is computed by itself. */
const FEW_PAIRS = 64;
/** Bytes of each buffer of many rows' values, as every adapter can bind; more rows are cut in parts. */
const WORKSPACE_BYTES = 128 << 20;

/** Rows of the op that are computed together. */
export interface ExpertRows extends ExpertsParams {
  readonly firstRow: number;
  /** f32 [rows * topK, intermediate]: activations of row t's slot j at t * topK + j */
  readonly middle: GPUBuffer;
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
  if (rows * topK <= FEW_PAIRS) {
    const step = { ...params, firstRow: 0, middle: middleOf(rows) };
    for (const dispatch of activatedPairs(step)) context.run(dispatch);
    for (const dispatch of addedPairs(step)) context.run(dispatch);
    return;
  }
  const rowBytes = topK * Math.max(hidden, intermediate) * 4;
  const most = Math.max(1, Math.floor(workspaceBytes / rowBytes));
  for (let firstRow = 0; firstRow < rows; firstRow += most) {
    const part = Math.min(most, rows - firstRow);
    many(context, { ...params, rows: part, firstRow, middle: middleOf(part) });
  }
}

function many(context: OpContext, step: ExpertRows): void {
  const { rows, topK, experts: { count, hidden } } = step;
  const tokens = tokensOfTile(rows * topK, count);
  const schedule = sortByExpert(context, {
    expertIds: bufferOf(step.expertIds).memory,
    firstPair: step.firstRow * topK,
    pairs: rows * topK,
    count,
    tokens,
  });
  const values = context.scratch("experts' values", rows * topK * hidden * 4);
  for (const dispatch of activatedTiles(step, schedule)) context.run(dispatch);
  for (const dispatch of downTiles(step, schedule, values)) context.run(dispatch);
  context.run(addedValues(step, values));
}
