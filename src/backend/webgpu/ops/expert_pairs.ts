/** Experts of few rows: matrix-vector kernels over pairs of a row and one of its experts. */

import { BUILTINS, type Dispatch, unrolled, WORKGROUP } from "../kernel.ts";
import { bufferOf, expertsOf, type GpuWeight } from "../memory.ts";
import { blocksOf, DECODE_COMMON } from "../weights/format.ts";
import {
  ACTIVATIONS,
  biasOf,
  expertRanges,
  expertsBefore,
  placeOf,
  wholeRows,
} from "./expert_ranges.ts";
import type { ExpertInput, ExpertRows } from "./experts.ts";
import { integerMatrices } from "./integer_products.ts";
import { addLanes, inputBinding, lanesOf, loadEight, overBlocks } from "./products.ts";
import { type Integers, stagedBytes, stagedRecords, stageRecords } from "./quantize.ts";
import { partBindings } from "./weights.ts";

/** Threads of a workgroup of the first product, and at most of one of the second. */
const THREADS = 128;
const MOST_THREADS = 256;
/** Rows of a thread of the second product, which share what it loads of the activations. */
const ROWS_EACH = 4;
/** Blocks of each matrix that a thread of either product asks for at once. */
const PAIRS_AHEAD = 4;
const ROWS_AHEAD = 2;
/** Workgroup memory that every adapter has. */
const WORKGROUP_BYTES = 16384;

/** `middle[pair] = activation(gate x, up x)`: each thread has the same blocks of a row of gate and of up. */
export function activatedPairs(step: ExpertRows): Dispatch[] {
  const { input, expertIds, topK, activation, rows, middle } = step;
  const { count, hidden, intermediate, gate, up, biases } = expertsOf(step.experts);
  const rowsEach = THREADS / lanesOf(hidden);
  const tiles = Math.ceil(intermediate / rowsEach);
  const bias = biasOf("bias", biases?.gateUp);
  const { integers } = input;
  const floats = (k: number) =>
    unrolled(4, (j) =>
      `{
        let v = x_8(base, at${k} * 4u + ${j}u);
        g = dot_8(g_unit(gate${k}, ${j}u), v, g);
        u = dot_8(u_unit(up${k}, ${j}u), v, u);
      }`);
  const whole = (k: number) =>
    `{
        let v = record_at(base + at${k});
        g = g_add(g_ints(gate${k}), v, g);
        u = u_add(u_ints(up${k}), v, u);
      }`;
  const load = integers === undefined ? "load" : "raw";
  return expertRanges([gate, up], intermediate).map((range): Dispatch => ({
    label: `experts gate and up, pairs ${gate.type} ${intermediate}x${hidden}`,
    bindings: [
      ...partBindings("g", gate, range.parts[0]),
      ...partBindings("u", up, range.parts[1]),
      inputBinding({ ...input, cols: hidden, width: hidden, rows }),
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
    code: `${decodersOf([{ name: "g", weight: gate }, { name: "u", weight: up }], integers)}
${ACTIVATIONS[activation]}
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
    let base = pair / ${topK}u * ${rowStep(hidden, integers)}u;
    let part = lane / ${rowsEach}u;
${
      overBlocks({
        cols: hidden,
        ahead: PAIRS_AHEAD,
        sums: ["g", "u"],
        load: (k) =>
          `let gate${k} = g_${load}(gateRow, at${k}); let up${k} = u_${load}(upRow, at${k});`,
        add: integers === undefined ? floats : whole,
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
export function addedPairs(step: ExpertRows, input: ExpertInput): Dispatch[] {
  const { expertIds, weights, topK, scale = 1, out, rows } = step;
  const { hidden, intermediate, down, biases } = expertsOf(step.experts);
  const { lanes, slots, rowsEach, tileRows } = addedShape(intermediate, topK);
  const work = slots * topK * lanes;
  const threads = Math.min(work, MOST_THREADS);
  const tiles = Math.ceil(hidden / tileRows);
  const bias = biasOf("bias", biases?.down);
  const { integers } = input;
  const own = Array.from({ length: rowsEach }, (_, r) => r);
  const floats = (k: number) =>
    unrolled(4, (j) =>
      `{
        let v = x_8(base, at${k} * 4u + ${j}u);
${own.map((r) => `sum${r} = dot_8(w_unit(w${k}${r}, ${j}u), v, sum${r});`).join("\n")}
      }`);
  const whole = (k: number) =>
    `{
        let v = record_at(base + at${k});
${own.map((r) => `sum${r} = w_add(w_ints(w${k}${r}), v, sum${r});`).join("\n")}
      }`;
  const load = integers === undefined ? "load" : "raw";
  return expertRanges([down], hidden).map((range): Dispatch => ({
    label: `experts down, pairs ${down.type} ${hidden}x${intermediate}`,
    bindings: [
      ...partBindings("w", down, range.parts[0]),
      inputBinding({ ...input, cols: intermediate, width: intermediate, rows }),
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
    code: `${decodersOf([{ name: "w", weight: down }], integers, input.unrounded)}
${input.unrounded ? stagedRecords(topK, intermediate, integers!) : ""}
${placeOf(topK)}
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
${
      input.unrounded
        ? stageRecords({ rows: topK, cols: intermediate, firstRow: "t * TOP_K", threads })
        : ""
    }
  for (var i = lane; i < ${work}u; i += ${threads}u) {
    let slot = i % ${slots}u;
    let part = i / ${slots}u % ${lanes}u;
    let j = i / ${slots * lanes}u;
    let pair = t * TOP_K + j;
    let expert = u32(expertIds[pair]) - params.first;
${unrolled(rowsEach, (r) => `    var sum${r} = 0.0;`)}
    if (expert < params.experts) {
      let base = ${input.unrounded ? "j" : "pair"} * ${rowStep(intermediate, integers)}u;
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
        sums: own.map((r) => `sum${r}`),
        load: (k) => own.map((r) => `let w${k}${r} = w_${load}(row${r}, at${k});`).join("\n"),
        add: integers === undefined ? floats : whole,
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

/** How a workgroup of the second product shares its work. */
function addedShape(intermediate: number, topK: number) {
  const lanes = lanesOf(intermediate);
  const mostSlots = MOST_THREADS / lanes;
  const slots = Math.max(1, Math.floor(mostSlots / topK));
  const rowsEach = topK <= mostSlots ? ROWS_EACH : 1;
  return { lanes, slots, rowsEach, tileRows: slots * rowsEach };
}

/** Whether the second product can round its input by itself, which saves a dispatch. */
export function canRoundPairs(
  { intermediate, topK }: { intermediate: number; topK: number },
  integers: Integers,
): boolean {
  const { lanes, tileRows } = addedShape(intermediate, topK);
  const sums = (tileRows * (lanes + 1) + 1) * topK * 4;
  return wholeRows(intermediate) &&
    topK * stagedBytes(intermediate, integers) + sums <= WORKGROUP_BYTES;
}

/** WGSL that reads the matrices and their input. */
function decodersOf(
  matrices: readonly { name: string; weight: GpuWeight }[],
  integers: Integers | undefined,
  unrounded = false,
): string {
  if (integers !== undefined) {
    return integerMatrices(matrices, integers, unrounded ? "records" : "x");
  }
  const [{ weight: { cols } }] = matrices;
  const own = matrices.map(({ name, weight }) => weight.format.decode(name, cols));
  return `${DECODE_COMMON}${own.join("")}${loadEight(wholeRows(cols), cols)}`;
}

/** How far a row of the input is from the one before, as the kernel counts. */
function rowStep(cols: number, integers: Integers | undefined): number {
  return integers === undefined ? cols : blocksOf(cols);
}
