/** The greedy choice of a token, in two dispatches: the best of each segment of a row, then of all. */

import type { ChooseParams } from "../../backend.ts";
import { BUILTINS, WORKGROUP } from "../kernel.ts";
import { bufferOf } from "../memory.ts";
import type { OpContext } from "./context.ts";

const LANES = 256;
/** Logits that one workgroup looks at. */
const SEGMENT = 4096;

/** Keeps the larger of two candidates, of equals the one with the lower id; defects add up. */
const COMMON = `
var<workgroup> values: array<f32, ${LANES}>;
var<workgroup> winners: array<u32, ${LANES}>;
var<workgroup> defects: array<u32, ${LANES}>;
fn reduce(lane: u32) {
  workgroupBarrier();
  for (var half = ${LANES / 2}u; half > 0u; half /= 2u) {
    if (lane < half) {
      let other = lane + half;
      let better = values[other] > values[lane] ||
        (values[other] == values[lane] && winners[other] < winners[lane]);
      if (better) {
        values[lane] = values[other];
        winners[lane] = winners[other];
      }
      defects[lane] |= defects[other];
    }
    workgroupBarrier();
  }
}`;

const LEAST = "-3.4028234e38f";

export function choose(context: OpContext, params: ChooseParams): void {
  const { rows, stride } = params;
  const { width } = params.logits;
  const segments = Math.ceil(width / SEGMENT);
  const best = context.scratch("best", rows * segments * 12);
  context.run({
    label: "choose in segments",
    bindings: [
      { name: "logits", buffer: bufferOf(params.logits).memory, type: "array<u32>" },
      { name: "best", buffer: best, type: "array<u32>", write: true },
    ],
    params: { width, segments, rows },
    workgroups: rows * segments,
    code: `${COMMON}
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let row = workgroup / params.segments;
  if (row >= params.rows) { return; }
  let start = (workgroup % params.segments) * ${SEGMENT}u;
  let end = min(start + ${SEGMENT}u, params.width);
  var value = ${LEAST};
  var winner = 0xffffffffu;
  var defect = 0u;
  for (var i = start + lane; i < end; i += ${LANES}u) {
    let bits = logits[row * params.width + i];
    let logit = bitcast<f32>(bits);
    // Compared as bits: arithmetic on what is not finite is not defined.
    if ((bits & 0x7f800000u) == 0x7f800000u) { defect = 1u; }
    else if (winner == 0xffffffffu || logit > value) { value = logit; winner = i; }
  }
  values[lane] = value;
  winners[lane] = winner;
  defects[lane] = defect;
  reduce(lane);
  if (lane == 0u) {
    best[workgroup * 3u] = bitcast<u32>(values[0]);
    best[workgroup * 3u + 1u] = winners[0];
    best[workgroup * 3u + 2u] = defects[0];
  }
}`,
  });
  context.run({
    label: "choose",
    bindings: [
      { name: "best", buffer: best, type: "array<u32>" },
      { name: "turn", buffer: bufferOf(params.turn).memory, type: "array<i32>" },
      { name: "ids", buffer: bufferOf(params.ids).memory, type: "array<i32>", write: true },
      { name: "history", buffer: bufferOf(params.history).memory, type: "array<i32>", write: true },
    ],
    params: { segments, stride, rows },
    workgroups: rows,
    code: `${COMMON}
@compute @workgroup_size(${LANES}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let row = workgroup;
  if (row >= params.rows) { return; }
  var value = ${LEAST};
  var winner = 0xffffffffu;
  var defect = 0u;
  for (var i = lane; i < params.segments; i += ${LANES}u) {
    let at = (row * params.segments + i) * 3u;
    let logit = bitcast<f32>(best[at]);
    defect |= best[at + 2u];
    if (winner == 0xffffffffu || logit > value) { value = logit; winner = best[at + 1u]; }
  }
  values[lane] = value;
  winners[lane] = winner;
  defects[lane] = defect;
  reduce(lane);
  if (lane == 0u) {
    let id = select(i32(winners[0]), -1, defects[0] != 0u);
    // The next step looks the id up, and -1 is none.
    ids[row] = max(id, 0);
    history[u32(turn[0]) * params.stride + row] = id;
  }
}`,
  });
}
