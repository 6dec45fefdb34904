/** Merges the segments of a row in order, after workgroups have computed them apart. */

import { BUILTINS, type Dispatch, WORKGROUP } from "../kernel.ts";
import { unitsOf } from "./cells.ts";
import {
  type Attention,
  attentionParams,
  merging,
  outBinding,
  outValues,
  SEGMENT_TOKENS,
  sinkBindings,
  SOFTMAX,
  type Split,
  tilePredicate,
} from "./softmax.ts";
import { batchBindings } from "./rotation.ts";

/** Threads of a workgroup, each with four values of one head; and segments weighed at a time. */
const THREADS = 64;
/** Sums of segments that a thread has under way. */
const AHEAD = 4;

export function mergeSegments(
  attention: Attention,
  { tileRows, split }: { tileRows: number; split: Split },
): Dispatch {
  const { rows, heads, value, batch } = attention;
  const quads = unitsOf(value.dim) * 2;
  const blocks = Math.ceil(quads / THREADS);
  const merge = (i: number) => `
        sum = merged(sum, shares[i + ${i}u].x, next${i}, shares[i + ${i}u].y);
        total = fma(total, shares[i + ${i}u].x, known[i + ${i}u].y * shares[i + ${i}u].y);`;
  const all = Array.from({ length: AHEAD }, (_, i) => i);
  const load = (i: number) => `let next${i} = sums[(first + base + i + ${i}u) * ${quads}u + quad];`;
  return {
    label: `${attention.label}, segments`,
    bindings: [
      { name: "sums", buffer: split.sums, type: "array<vec4<f32>>" },
      { name: "stats", buffer: split.stats, type: "array<vec2<f32>>" },
      ...sinkBindings(attention),
      ...batchBindings(batch),
      outBinding(attention),
    ],
    params: { ...attentionParams(attention), segments: split.segments },
    workgroups: rows * heads * blocks,
    code: `${SOFTMAX}${tilePredicate(tileRows)}${merging(attention)}${outValues(value)}
// Of each segment: the largest score, the sum of weights.
var<workgroup> known: array<vec2<f32>, ${THREADS}>;
// What those before it are worth beside it, and it beside those.
var<workgroup> shares: array<vec2<f32>, ${THREADS}>;
@compute @workgroup_size(${THREADS}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let vector = workgroup / ${blocks}u;
  let row = vector / ${heads}u;
  if (row >= params.rows || is_tile(row)) { return; }
  let quad = workgroup % ${blocks}u * ${THREADS}u + lane;
  let position = u32(positions[row]);
  let count = position / ${SEGMENT_TOKENS}u - first_seen(position) / ${SEGMENT_TOKENS}u + 1u;
  let first = vector * params.segments;
  var sum = vec4<f32>();
  var total = 0.0;
  var peak = LOWEST;
  for (var base = 0u; base < count; base += ${THREADS}u) {
    let here = min(count - base, ${THREADS}u);
    if (lane < here) { known[lane] = stats[first + base + lane]; }
    workgroupBarrier();
    if (lane < here) {
      var before = peak;
      for (var i = 0u; i < lane; i++) { before = max(before, known[i].x); }
      let after = max(before, known[lane].x);
      shares[lane] = vec2<f32>(power(before - after), power(known[lane].x - after));
    }
    workgroupBarrier();
    if (quad < ${quads}u) {
      var i = 0u;
      for (; i + ${AHEAD}u <= here; i += ${AHEAD}u) {
        ${all.map(load).join("\n        ")}${all.map(merge).join("")}
      }
      for (; i < here; i++) {
        ${load(0)}${merge(0)}
      }
    }
    for (var i = 0u; i < here; i++) { peak = max(peak, known[i].x); }
    workgroupBarrier();
  }
  if (quad < ${quads}u) {
    store_out(vector, quad, finished(sum, peak, total, vector % ${heads}u));
  }
}`,
  };
}
