/** Experts of few rows: matrix-vector kernels over pairs of a row and one of its experts. */

import { BUILTINS, type Dispatch, unrolled, WORKGROUP } from "../kernel.ts";
import { bufferOf, expertsOf } from "../memory.ts";
import { DECODE_COMMON } from "../weights/format.ts";
import {
  ACTIVATIONS,
  biasOf,
  expertRanges,
  expertsBefore,
  placeOf,
  wholeRows,
} from "./expert_ranges.ts";
import type { ExpertRows } from "./experts.ts";
import { addLanes, lanesOf, loadEight, overBlocks } from "./products.ts";
import { partBindings } from "./weights.ts";

/** Threads of a workgroup of the first product, and at most of one of the second. */
const THREADS = 128;
const MOST_THREADS = 256;
/** Rows of a thread of the second product, which share what it loads of the activations. */
const ROWS_EACH = 4;
/** Blocks of each matrix that a thread of either product asks for at once. */
const PAIRS_AHEAD = 4;
const ROWS_AHEAD = 2;

/** `middle[pair] = activation(gate x, up x)`: each thread has the same blocks of a row of gate and of up. */
export function activatedPairs(step: ExpertRows): Dispatch[] {
  const { x, expertIds, topK, activation, rows, middle } = step;
  const { count, hidden, intermediate, gate, up, biases } = expertsOf(step.experts);
  const rowsEach = THREADS / lanesOf(hidden);
  const tiles = Math.ceil(intermediate / rowsEach);
  const whole = wholeRows(hidden);
  const bias = biasOf("bias", biases?.gateUp);
  return expertRanges([gate, up], intermediate).map((range): Dispatch => ({
    label: `experts gate and up, pairs ${gate.type} ${intermediate}x${hidden}`,
    bindings: [
      ...partBindings("g", gate, range.parts[0]),
      ...partBindings("u", up, range.parts[1]),
      { name: "x", buffer: bufferOf(x).memory, type: whole ? "array<vec4<f32>>" : "array<f32>" },
      { name: "expertIds", buffer: bufferOf(expertIds).memory, type: "array<i32>" },
      ...bias.bindings,
      { name: "middle", buffer: middle, write: true },
    ],
    params: {
      pairs: rows * topK,
      tiles,
      first: range.first,
      experts: range.end - range.first,
      gateBefore: expertsBefore(range, range.parts[0], intermediate),
      upBefore: expertsBefore(range, range.parts[1], intermediate),
    },
    workgroups: rows * topK * tiles,
    code: `${DECODE_COMMON}${gate.format.decode("g", hidden)}${up.format.decode("u", hidden)}
${loadEight(whole, hidden)}${ACTIVATIONS[activation]}
var<workgroup> sums: array<vec2<f32>, ${THREADS}>;
@compute @workgroup_size(${THREADS}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let pair = workgroup / params.tiles;
  if (pair >= params.pairs) { return; }
  let id = u32(expertIds[pair]);
  let expert = id - params.first;
  if (expert >= params.experts) { return; }
  let firstRow = (workgroup % params.tiles) * ${rowsEach}u;
  // Neighbouring threads have neighbouring rows, which read the same values of x.
  let row = firstRow + lane % ${rowsEach}u;
  var g = 0.0;
  var u = 0.0;
  if (row < ${intermediate}u) {
    let gateRow = (params.gateBefore + expert) * ${intermediate}u + row;
    let upRow = (params.upBefore + expert) * ${intermediate}u + row;
    let base = pair / ${topK}u * ${hidden}u;
    let part = lane / ${rowsEach}u;
${
      overBlocks({
        cols: hidden,
        ahead: PAIRS_AHEAD,
        sums: ["g", "u"],
        load: (k) => `let gate${k} = g_load(gateRow, at${k}); let up${k} = u_load(upRow, at${k});`,
        add: (k) =>
          unrolled(4, (j) =>
            `{
        let v = x_8(base, at${k} * 4u + ${j}u);
        g = dot_8(g_unit(gate${k}, ${j}u), v, g);
        u = dot_8(u_unit(up${k}, ${j}u), v, u);
      }`),
      })
    }
  }
  sums[lane] = vec2<f32>(g, u);
  workgroupBarrier();
  let column = firstRow + lane;
  if (lane >= ${rowsEach}u || column >= ${intermediate}u) { return; }
  var sum = vec2<f32>();
  ${addLanes(hidden, "sum", (l) => `sums[${l} * ${rowsEach}u + lane]`)}
  middle[pair * ${intermediate}u + column] =
    activated(sum.x${bias.plus("id", "column")}, sum.y${bias.plus(`(${count}u + id)`, "column")});
}`,
  }));
}

/**
 * `out[t] += scale * sum_j weights[t, j] * down middle[t, j]`: a workgroup has some rows of the matrices
 * of all of a token's experts, whose products are computed at once and added in order. Where experts lie
 * in several ranges, one dispatch goes on where the one before has stopped.
 */
export function addedPairs(step: ExpertRows): Dispatch[] {
  const { expertIds, weights, topK, scale = 1, out, rows, middle } = step;
  const { hidden, intermediate, down, biases } = expertsOf(step.experts);
  const lanes = lanesOf(intermediate);
  const mostSlots = MOST_THREADS / lanes;
  const slots = Math.max(1, Math.floor(mostSlots / topK));
  const rowsEach = topK <= mostSlots ? ROWS_EACH : 1;
  const tileRows = slots * rowsEach;
  const work = slots * topK * lanes;
  const threads = Math.min(work, MOST_THREADS);
  const tiles = Math.ceil(hidden / tileRows);
  const whole = wholeRows(intermediate);
  const bias = biasOf("bias", biases?.down);
  return expertRanges([down], hidden).map((range): Dispatch => ({
    label: `experts down, pairs ${down.type} ${hidden}x${intermediate}`,
    bindings: [
      ...partBindings("w", down, range.parts[0]),
      { name: "x", buffer: middle, type: whole ? "array<vec4<f32>>" : "array<f32>" },
      { name: "expertIds", buffer: bufferOf(expertIds).memory, type: "array<i32>" },
      { name: "weights", buffer: bufferOf(weights).memory },
      ...bias.bindings,
      { name: "out", buffer: bufferOf(out).memory, write: true },
    ],
    params: {
      rows,
      tiles,
      first: range.first,
      experts: range.end - range.first,
      scale: { f32: scale },
    },
    workgroups: rows * tiles,
    code: `${DECODE_COMMON}${down.format.decode("w", intermediate)}
${loadEight(whole, intermediate)}${placeOf(topK)}
const TOP_K = ${topK}u;
// Products: row r of slot j is number j * ${tileRows} + r.
const ITEMS = ${tileRows * topK}u;
var<workgroup> sums: array<f32, ${tileRows * topK * lanes}>;
var<workgroup> values: array<f32, ${tileRows * topK}>;
var<workgroup> order: array<u32, ${topK}>;
@compute @workgroup_size(${threads}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let t = workgroup / params.tiles;
  if (t >= params.rows) { return; }
  let firstRow = (workgroup % params.tiles) * ${tileRows}u;
  for (var j = lane; j < TOP_K; j += ${threads}u) { order[place_of(t, j)] = j; }
  for (var i = lane; i < ${work}u; i += ${threads}u) {
    let slot = i % ${slots}u;
    let part = i / ${slots}u % ${lanes}u;
    let j = i / ${slots * lanes}u;
    let pair = t * TOP_K + j;
    let expert = u32(expertIds[pair]) - params.first;
${unrolled(rowsEach, (r) => `    var sum${r} = 0.0;`)}
    if (expert < params.experts) {
${
      unrolled(rowsEach, (r) =>
        `      let row${r} = expert * ${hidden}u + min(firstRow + ${r * slots}u + slot, ${
          hidden - 1
        }u);`)
    }
${
      overBlocks({
        cols: intermediate,
        ahead: ROWS_AHEAD,
        sums: Array.from({ length: rowsEach }, (_, r) => `sum${r}`),
        load: (k) => unrolled(rowsEach, (r) => `let w${k}${r} = w_load(row${r}, at${k});`),
        add: (k) =>
          unrolled(4, (j) =>
            `{
        let v = x_8(pair * ${intermediate}u, at${k} * 4u + ${j}u);
${unrolled(rowsEach, (r) => `sum${r} = dot_8(w_unit(w${k}${r}, ${j}u), v, sum${r});`)}
      }`),
      })
    }
    }
${
      unrolled(rowsEach, (r) =>
        `    sums[part * ITEMS + j * ${tileRows}u + ${r * slots}u + slot] = sum${r};`)
    }
  }
  workgroupBarrier();
  for (var item = lane; item < ITEMS; item += ${threads}u) {
    var value = 0.0;
    ${addLanes(intermediate, "value", (l) => `sums[${l} * ITEMS + item]`)}
    values[item] = value;
  }
  workgroupBarrier();
  let row = firstRow + lane;
  if (lane >= ${tileRows}u || row >= ${hidden}u) { return; }
  var sum = out[t * ${hidden}u + row];
  for (var place = 0u; place < TOP_K; place++) {
    let j = order[place];
    let id = u32(expertIds[t * TOP_K + j]);
    if (id - params.first < params.experts) {
      let value = values[j * ${tileRows}u + lane]${bias.plus("id", "row")};
      sum = fma(params.scale * weights[t * TOP_K + j], value, sum);
    }
  }
  out[t * ${hidden}u + row] = sum;
}`,
  }));
}
