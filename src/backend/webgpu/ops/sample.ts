/**
 * Draws tokens, for rows whose rule says so, in five dispatches: weights by the high bits of distances
 * from the best logit; tokens by low bits where top_k's border lies; the same where top_p's lies; weights
 * of segments within the borders; the draw. All but the last look at a row's segments side by side. Sums
 * are of integers, and so the same in whatever order they are made.
 */

import type { ChooseParams } from "../../backend.ts";
import {
  BEST_WORDS,
  DRAWN_KEY,
  EXCLUDED,
  HIGHS,
  LANES,
  LOW_BITS,
  LOWS,
  OUT,
  ruleAt,
  SEGMENT,
  SEGMENT_WORDS,
  segmentsOf,
  words,
  WORK,
  workBinding,
} from "./choose_layout.ts";
import type { TableContext } from "./context.ts";
import { findTopK, findTopP } from "./sample_borders.ts";
import { ALL, PREFIX, REACHES, ROUNDED, SETTLED, WEIGHT, WIDE } from "./sample_code.ts";
import { ATOMIC, sampleKernel, tables } from "./sample_kernel.ts";

/** Adds draws to `best`, which has each segment's best token. */
export function sample(context: TableContext, params: ChooseParams, best: GPUBuffer): void {
  weigh(context, params, best);
  findTopK(context, params);
  findTopP(context, params);
  sumSegments(context, params);
  draw(context, params, best);
}

/** Turns logits into distances, and adds up tokens and weights by their high bits. */
function weigh(context: TableContext, params: ChooseParams, best: GPUBuffer): void {
  sampleKernel(context, params, {
    label: "sample: weigh",
    bindings: [
      { ...words("logits", params.logits), write: true },
      { name: "best", buffer: best, type: "array<u32>" },
      workBinding(context, { params, ...ATOMIC }),
      tables(context),
    ],
    each: segmentsOf(params),
    code: `${SETTLED}${ROUNDED}${WIDE}${WEIGHT}
var<workgroup> top: atomic<u32>;
var<workgroup> counts: array<atomic<u32>, ${HIGHS}>;
var<workgroup> lows: array<atomic<u32>, ${HIGHS}>;
var<workgroup> highs: array<atomic<u32>, ${HIGHS}>;`,
    body: `
  for (var i = lane; i < params.segments; i += ${LANES}u) {
    atomicMax(&top, best[(row * params.segments + i) * ${BEST_WORDS}u]);
  }
  workgroupBarrier();
  let key = atomicLoad(&top);
  let most = settled(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
  let scale = bitcast<f32>(${ruleAt("row", "scale")});
  let farthest = f32(${ruleAt("row", "farthest")});
  for (var at = first + lane; at < end; at += ${LANES}u) {
    let bits = logits[at];
    var step = ${OUT};
    if (bits != ${EXCLUDED}) {
      let distance = bitcast<f32>(rounded(most - settled(bits))) * scale;
      if (distance <= farthest) {
        step = u32(distance);
        step += u32(f32(step) < distance);
        let weight = weight_of(step);
        let high = step >> ${LOW_BITS}u;
        atomicAdd(&counts[high], 1u);
        if (atomicAdd(&lows[high], weight) > ~weight) { atomicAdd(&highs[high], 1u); }
      }
    }
    logits[at] = step;
  }
  workgroupBarrier();
  for (var i = lane; i < ${HIGHS}u; i += ${LANES}u) {
    let count = atomicLoad(&counts[i]);
    if (count == 0u) { continue; }
    let low = atomicLoad(&lows[i]);
    atomicAdd(&work[base + ${WORK.counts}u + i], count);
    let at = base + ${WORK.weights}u + 2u * i;
    let carry = u32(atomicAdd(&work[at], low) > ~low);
    atomicAdd(&work[at + 1u], atomicLoad(&highs[i]) + carry);
  }`,
  });
}

/** Finds the border, and sums up what of each segment lies within. */
function sumSegments(context: TableContext, params: ChooseParams): void {
  sampleKernel(context, params, {
    label: "sample: sum segments",
    bindings: [
      words("logits", params.logits),
      workBinding(context, { params, type: "array<u32>", write: true }),
      tables(context),
    ],
    each: segmentsOf(params),
    code: `${WIDE}${WEIGHT}${PREFIX}${REACHES}
var<workgroup> border: u32;
var<workgroup> kept: u32;
var<workgroup> ties: atomic<u32>;
// The fewest of so many tokens whose weight comes to what is needed.
fn fewest(count: u32, weight: u32, need: vec2<u32>) -> u32 {
  var few = 0u;
  var many = count;
  while (many - few > 1u) {
    let middle = (few + many) / 2u;
    if (less(product(middle, weight), need)) { few = middle; } else { many = middle; }
  }
  return many;
}
fn difference(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return vec2<u32>(a.x - b.x, a.y - b.y - u32(a.x < b.x));
}`,
    body: `
  let own = lane * ${LOWS / LANES}u;
  let lows = base + own +
    select(${WORK.topPLows}u, ${WORK.topKLows}u, work[base + ${WORK.isTopK}u] != 0u);
  let steps = (work[base + ${WORK.high}u] << ${LOW_BITS}u) + own;
  let goal = vec2<u32>(work[base + ${WORK.goal}u], work[base + ${WORK.goal + 1}u]);
  var weight = wide(0u);
  for (var i = 0u; i < ${LOWS / LANES}u; i++) {
    weight = add(weight, product(work[lows + i], weight_of(steps + i)));
  }
  var sum = add(before(lane, weight),
    vec2<u32>(work[base + ${WORK.before}u], work[base + ${WORK.before + 1}u]));
  if (reaches(goal, sum, weight)) {
    var i = 0u;
    weight = product(work[lows], weight_of(steps));
    while (!reaches(goal, sum, weight)) {
      sum = add(sum, weight);
      i++;
      weight = product(work[lows + i], weight_of(steps + i));
    }
    border = steps + i;
    kept = fewest(work[lows + i], weight_of(border), difference(goal, sum));
    if (segment == 0u) {
      work[base + ${WORK.step}u] = border;
      work[base + ${WORK.ties}u] = kept;
    }
  }
  workgroupBarrier();
  weight = wide(0u);
  var count = 0u;
  for (var at = first + lane; at < end; at += ${LANES}u) {
    let step = logits[at];
    if (step < border) { weight = add(weight, wide(weight_of(step))); }
    count += u32(step == border);
  }
  if (count > 0u) { atomicAdd(&ties, count); }
  _ = before(lane, weight);
  if (lane == 0u) {
    let at = base + ${WORK.segments}u + segment * ${SEGMENT_WORDS}u;
    work[at] = ${ALL}.x;
    work[at + 1u] = ${ALL}.y;
    work[at + 2u] = atomicLoad(&ties);
  }`,
  });
}

/** Finds the segment, then the token in it, at which the running sum of weights passes the draw. */
function draw(context: TableContext, params: ChooseParams, best: GPUBuffer): void {
  const own = SEGMENT / LANES;
  sampleKernel(context, params, {
    label: "sample: draw",
    bindings: [
      words("logits", params.logits),
      workBinding(context, { params, type: "array<u32>" }),
      tables(context),
      { name: "best", buffer: best, type: "array<u32>", write: true },
      words("draws", params.sampling!.draws),
      words("turn", params.turn),
    ],
    each: 1,
    code: `${WIDE}${WEIGHT}${PREFIX}
var<workgroup> found: u32;
var<workgroup> found_sum: vec2<u32>;
var<workgroup> found_left: u32;
fn passes(goal: vec2<u32>, sum: vec2<u32>, own: vec2<u32>) -> bool {
  return !less(goal, sum) && less(goal, add(sum, own));
}
fn segment_weight(at: u32, left: u32, tie: u32) -> vec2<u32> {
  return add(vec2<u32>(work[at], work[at + 1u]), product(min(left, work[at + 2u]), tie));
}
fn token_weight(step: u32, border: u32, left: u32) -> u32 {
  if (step > border || (step == border && left == 0u)) { return 0u; }
  return weight_of(step);
}`,
    body: `
  let border = work[base + ${WORK.step}u];
  let ties = work[base + ${WORK.ties}u];
  let tie = weight_of(border);
  let each = (params.segments + ${LANES - 1}u) / ${LANES}u;
  let begin = base + ${WORK.segments}u + min(lane * each, params.segments) * ${SEGMENT_WORDS}u;
  let to = base + ${WORK.segments}u + min((lane + 1u) * each, params.segments) * ${SEGMENT_WORDS}u;
  var count = 0u;
  for (var at = begin; at < to; at += ${SEGMENT_WORDS}u) { count += work[at + 2u]; }
  var left = ties - min(ties, before(lane, wide(count)).x);
  let leftHere = left;
  var weight = wide(0u);
  for (var at = begin; at < to; at += ${SEGMENT_WORDS}u) {
    weight = add(weight, segment_weight(at, left, tie));
    left -= min(left, work[at + 2u]);
  }
  var sum = before(lane, weight);
  let drawn = (turn[0] * params.stride + row) * 2u;
  let goal = part(${ALL}, vec2<u32>(draws[drawn + 1u], draws[drawn]));
  if (passes(goal, sum, weight)) {
    left = leftHere;
    var at = begin;
    while (!passes(goal, sum, segment_weight(at, left, tie))) {
      sum = add(sum, segment_weight(at, left, tie));
      left -= min(left, work[at + 2u]);
      at += ${SEGMENT_WORDS}u;
    }
    found = (at - base - ${WORK.segments}u) / ${SEGMENT_WORDS}u;
    found_sum = sum;
    found_left = left;
  }
  workgroupBarrier();
  let start = row * params.width + min(found * ${SEGMENT}u + lane * ${own}u, params.width);
  let stop = min(start + ${own}u, (row + 1u) * params.width);
  count = 0u;
  for (var at = start; at < stop; at++) { count += u32(logits[at] == border); }
  left = found_left - min(found_left, before(lane, wide(count)).x);
  let leftOwn = left;
  weight = wide(0u);
  for (var at = start; at < stop; at++) {
    weight = add(weight, wide(token_weight(logits[at], border, left)));
    left -= min(left, u32(logits[at] == border));
  }
  sum = add(found_sum, before(lane, weight));
  if (passes(goal, sum, weight)) {
    left = leftOwn;
    var at = start;
    while (!passes(goal, sum, wide(token_weight(logits[at], border, left)))) {
      sum = add(sum, wide(token_weight(logits[at], border, left)));
      left -= min(left, u32(logits[at] == border));
      at++;
    }
    best[row * params.segments * ${BEST_WORDS}u] = ${DRAWN_KEY};
    best[row * params.segments * ${BEST_WORDS}u + 1u] = at - row * params.width;
  }`,
  });
}
