/** What rows' experts have answered, added up. */

import { BUILTINS, type Dispatch, WORKGROUP } from "../kernel.ts";
import { bufferOf } from "../memory.ts";
import { placeOf } from "./expert_ranges.ts";
import type { ExpertRows } from "./experts.ts";

const THREADS = 128;

/** `out[t] += scale * sum_j weights[t, j] * values[t, j]`, in ascending order of the experts' ids. */
export function addedValues(
  step: Omit<ExpertRows, "middle" | "input">,
  values: GPUBuffer,
): Dispatch {
  const { expertIds, weights, topK, scale = 1, out, rows, firstRow } = step;
  const { hidden } = step.experts;
  const four = hidden % 4 === 0;
  const type = four ? "vec4<f32>" : "f32";
  const width = four ? hidden / 4 : hidden;
  const groups = Math.ceil(width / THREADS);
  return {
    label: `experts sum of ${topK}`,
    bindings: [
      { name: "values", buffer: values, type: `array<${type}>` },
      { name: "expertIds", buffer: bufferOf(expertIds).memory, type: "array<i32>" },
      { name: "weights", buffer: bufferOf(weights).memory },
      { name: "out", buffer: bufferOf(out).memory, type: `array<${type}>`, write: true },
    ],
    params: { rows, firstRow, scale: { f32: scale } },
    workgroups: rows * groups,
    code: `${placeOf(topK)}
const TOP_K = ${topK}u;
var<workgroup> order: array<u32, ${topK}>;
@compute @workgroup_size(${THREADS}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let t = workgroup / ${groups}u;
  if (t >= params.rows) { return; }
  let row = params.firstRow + t;
  for (var j = lane; j < TOP_K; j += ${THREADS}u) { order[place_of(row, j)] = j; }
  workgroupBarrier();
  let column = workgroup % ${groups}u * ${THREADS}u + lane;
  if (column >= ${width}u) { return; }
  var sum = out[row * ${width}u + column];
  for (var place = 0u; place < TOP_K; place++) {
    let j = order[place];
    // Of no expert there are no values.
    if (expertIds[row * TOP_K + j] < 0) { continue; }
    let factor = params.scale * weights[row * TOP_K + j];
    sum = fma(${type}(factor), values[(t * TOP_K + j) * ${width}u + column], sum);
  }
  out[row * ${width}u + column] = sum;
}`,
  };
}
