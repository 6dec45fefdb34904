/**
 * Where top_k's and top_p's borders lie: the high bits of their distances are found by what `weigh` has
 * counted, then the tokens that have these are counted by the low ones.
 */

import type { ChooseParams } from "../../backend.ts";
import { RULE_FLAGS } from "../../../sampling/rule.ts";
import {
  HIGHS,
  LANES,
  LOW_BITS,
  LOWS,
  ruleAt,
  segmentsOf,
  words,
  WORK,
  workBinding,
} from "./choose_layout.ts";
import type { TableContext } from "./context.ts";
import { ALL, PREFIX, REACHES, WEIGHT, WIDE } from "./sample_code.ts";
import { ATOMIC, sampleKernel, tables } from "./sample_kernel.ts";

/** Leaves the high bits of top_k's border in `k_high`, HIGHS where it keeps all, and how many come before. */
const FIND_TOP_K = `
var<workgroup> k_high: u32;
var<workgroup> k_before: u32;
fn find_top_k(base: u32, topK: u32, lane: u32) {
  if (lane == 0u) { k_high = ${HIGHS}u; }
  let bins = base + ${WORK.counts}u + lane * ${HIGHS / LANES}u;
  var own = 0u;
  for (var i = 0u; i < ${HIGHS / LANES}u; i++) { own += atomicLoad(&work[bins + i]); }
  var sum = before(lane, wide(own)).x;
  if (${ALL}.x > topK && sum < topK && sum + own >= topK) {
    var i = 0u;
    var count = atomicLoad(&work[bins]);
    while (sum + count < topK) {
      sum += count;
      i++;
      count = atomicLoad(&work[bins + i]);
    }
    k_high = lane * ${HIGHS / LANES}u + i;
    k_before = sum;
  }
  workgroupBarrier();
}`;

/** Counts tokens whose high bits are `high` by their low ones, all threads of a workgroup together. */
const COUNT_LOWS = `
var<workgroup> tally: array<atomic<u32>, ${LOWS}>;
fn count_lows(high: u32, first: u32, end: u32, into: u32, lane: u32) {
  for (var at = first + lane; at < end; at += ${LANES}u) {
    let step = logits[at];
    if (step >> ${LOW_BITS}u == high) { atomicAdd(&tally[step & ${LOWS - 1}u], 1u); }
  }
  workgroupBarrier();
  for (var i = lane; i < ${LOWS}u; i += ${LANES}u) {
    let count = atomicLoad(&tally[i]);
    if (count > 0u) { atomicAdd(&work[into + i], count); }
  }
}`;

export function findTopK(context: TableContext, params: ChooseParams): void {
  sampleKernel(context, params, {
    label: "sample: find top_k",
    bindings: [words("logits", params.logits), workBinding(context, { params, ...ATOMIC })],
    each: segmentsOf(params),
    code: `${WIDE}${PREFIX}${FIND_TOP_K}${COUNT_LOWS}`,
    body: `
  let topK = ${ruleAt("row", "topK")};
  if (topK >= params.width) { return; }
  find_top_k(base, topK, lane);
  count_lows(k_high, first, end, base + ${WORK.topKLows}u, lane);`,
  });
}

/** Leaves top_p's border's high bits, and how much weight must come from behind those before. */
export function findTopP(context: TableContext, params: ChooseParams): void {
  sampleKernel(context, params, {
    label: "sample: find top_p",
    bindings: [
      words("logits", params.logits),
      workBinding(context, { params, ...ATOMIC }),
      tables(context),
    ],
    each: segmentsOf(params),
    code: `${WIDE}${WEIGHT}${PREFIX}${REACHES}${FIND_TOP_K}${COUNT_LOWS}
var<workgroup> p_high: u32;
fn weight_at(bin: u32) -> vec2<u32> {
  return vec2<u32>(atomicLoad(&work[bin]), atomicLoad(&work[bin + 1u]));
}`,
    body: `
  let topK = ${ruleAt("row", "topK")};
  find_top_k(base, topK, lane);
  // The weight of those on top_k's border that are kept.
  let lows = base + ${WORK.topKLows}u + lane * ${LOWS / LANES}u;
  var count = 0u;
  for (var i = 0u; i < ${LOWS / LANES}u; i++) { count += atomicLoad(&work[lows + i]); }
  var left = topK - min(topK, k_before + before(lane, wide(count)).x);
  var weight = wide(0u);
  for (var i = 0u; i < ${LOWS / LANES}u; i++) {
    let kept = min(left, atomicLoad(&work[lows + i]));
    if (kept > 0u) {
      let step = (k_high << ${LOW_BITS}u) + lane * ${LOWS / LANES}u + i;
      weight = add(weight, product(kept, weight_of(step)));
    }
    left -= kept;
  }
  _ = before(lane, weight);
  let border = ${ALL};
  let bins = base + ${WORK.weights}u + lane * ${2 * HIGHS / LANES}u;
  var own: array<vec2<u32>, ${HIGHS / LANES}>;
  weight = wide(0u);
  for (var i = 0u; i < ${HIGHS / LANES}u; i++) {
    let high = lane * ${HIGHS / LANES}u + i;
    if (high < k_high) { own[i] = weight_at(bins + 2u * i); }
    if (high == k_high) { own[i] = border; }
    weight = add(weight, own[i]);
  }
  var sum = before(lane, weight);
  var goal = ${ALL};
  if ((${ruleAt("row", "flags")} & ${RULE_FLAGS.shares}u) != 0u) {
    goal = part(goal, vec2<u32>(0u, ${ruleAt("row", "share")}));
    if (goal.x == 0u && goal.y == 0u) { goal.x = 1u; }
  }
  if (lane == 0u) { p_high = ${HIGHS}u; }
  workgroupBarrier();
  if (reaches(goal, sum, weight)) {
    var i = 0u;
    while (!reaches(goal, sum, own[i])) {
      sum = add(sum, own[i]);
      i++;
    }
    p_high = lane * ${HIGHS / LANES}u + i;
    if (segment == 0u) {
      atomicStore(&work[base + ${WORK.high}u], p_high);
      atomicStore(&work[base + ${WORK.isTopK}u], u32(p_high == k_high));
      atomicStore(&work[base + ${WORK.before}u], sum.x);
      atomicStore(&work[base + ${WORK.before + 1}u], sum.y);
      atomicStore(&work[base + ${WORK.goal}u], goal.x);
      atomicStore(&work[base + ${WORK.goal + 1}u], goal.y);
    }
  }
  workgroupBarrier();
  // Where both borders have the same high bits, they are counted already.
  let high = select(p_high, ${HIGHS}u, p_high == k_high);
  count_lows(high, first, end, base + ${WORK.topPLows}u, lane);`,
  });
}
