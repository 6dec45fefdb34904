/**
 * Routed experts, leaving behind what their backward pass needs. Their answers have the bits of `experts`,
 * by whose kernels they are computed; what is left behind is what those kernels have summed up.
 */

import type { Buffer } from "../../backend.ts";
import type * as params from "../../training_params.ts";
import { bufferOf } from "../memory.ts";
import type { OpContext } from "../ops/context.ts";
import { addedValues } from "../ops/expert_sums.ts";
import { sortByExpert, tokensOfTile } from "../ops/expert_sort.ts";
import { activatedTiles, downTiles } from "../ops/expert_tiles.ts";
import { experts, FEW_PAIRS } from "../ops/experts.ts";
import { checkExpertCount } from "../ops/moe_common.ts";
import { expertProducts } from "./experts.ts";
import type { Trained } from "./parameters.ts";

type Gates = params.ExpertGatesParams;

export function keepingExperts(
  context: OpContext,
  params: params.KeepingExpertsParams,
  trained: Trained,
): void {
  const { rows, topK, experts: { hidden } } = params;
  if (rows * topK <= FEW_PAIRS) {
    experts(context, params);
    expertProducts(context, params, trained);
    return;
  }
  const { step, schedule } = keptTiles(context, params);
  const values = context.scratch("experts' values", rows * topK * hidden * 4);
  for (const dispatch of downTiles(step, schedule, values)) context.run(dispatch);
  context.run(addedValues({ ...params, firstRow: 0 }, values));
}

export function expertGates(context: OpContext, params: Gates, trained: Trained): void {
  if (params.rows * params.topK <= FEW_PAIRS) expertProducts(context, params, trained);
  else keptTiles(context, params);
}

function keptTiles(context: OpContext, params: Gates) {
  const { x, experts, topK, rows, kept } = params;
  const { count, intermediate } = experts;
  checkExpertCount("experts", count);
  const pairs = rows * topK;
  const schedule = sortByExpert(context, {
    ...{ expertIds: bufferOf(params.expertIds).memory, firstPair: 0, pairs, count },
    tokens: tokensOfTile(pairs, count),
  });
  const middle = context.scratch("experts' activations", pairs * intermediate * 4);
  const step = { x, experts, topK, firstRow: 0, middle, activation: "silu" } as const;
  const memoryOf = (buffer: Buffer) => bufferOf(buffer).memory;
  const into = { gate: memoryOf(kept.gate), up: memoryOf(kept.up) };
  for (const dispatch of activatedTiles(step, schedule, into)) context.run(dispatch);
  return { step, schedule };
}
