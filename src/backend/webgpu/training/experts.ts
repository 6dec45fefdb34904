/**
 * Routed experts: what their backward pass needs of the forward one, and that pass. Pairs of a row and one
 * of its experts are sorted by expert, and products go over tiles of one expert's pairs. With
 * `out = scale w down(a)`, `a = silu(g) u`: dw = scale (down^T dout) a, da = scale w down^T dout.
 */

import type { Buffer } from "../../backend.ts";
import type * as params from "../../training_params.ts";
import { bufferOf } from "../memory.ts";
import type { OpContext } from "../ops/context.ts";
import { checkExpertCount } from "../ops/moe_common.ts";
import { each, kernel, reads, total, totalMemory, writes } from "./arrays.ts";
import { pairAt, type Schedule, sortedByExpert, tileOf } from "./expert_sort.ts";
import { roundedCopy } from "./halves.ts";
import type { GpuParameter, Trained } from "./parameters.ts";
import { product, type Side, sideOf, tilesOf } from "./product.ts";
import { addSums, areFours } from "./products.ts";
import { SWIGLU_SLOPES } from "./rows.ts";

/** Threads that share a pair's sum. */
const LANES = 64;
/** Into how many sums an expert's products are cut up at most, and how many each has on average at least. */
const MOST_SPLITS = 4;
const LEAST_SPLIT = 512;

/** Pairs sorted, and how they are multiplied. */
interface Pairs {
  readonly schedule: Schedule;
  readonly side: Side;
  readonly topK: number;
  readonly count: number;
}

function sorted(
  context: OpContext,
  { experts, expertIds, topK, rows }: Pick<
    params.ExpertGatesParams,
    "experts" | "expertIds" | "topK" | "rows"
  >,
): Pairs {
  const { count, intermediate } = experts;
  checkExpertCount("experts' backward pass", count);
  const pairs = rows * topK;
  // Tiles that an expert's pairs don't fill are mostly for nothing.
  const most = pairs / count >= 192 ? 128 : pairs / count >= 48 ? 64 : 32;
  const side = Math.min(most, sideOf({ rows: pairs, cols: intermediate })) as Side;
  const schedule = sortedByExpert(context, { expertIds, pairs, count, side });
  return { schedule, side, topK, count: pairs };
}

/** Rows that pairs have of their own, or share with those of the same row. */
interface Rows {
  readonly of: Buffer | GPUBuffer;
  readonly width: number;
  readonly shared: boolean;
  /** Whether their numbers are halves; float32 by default. */
  readonly halves?: boolean;
}

/** out[pair] (+)= rows[pair] W, or rows[pair] W^T, W being the matrix of the pair's expert. */
function multiply(
  context: OpContext,
  { schedule, side, topK }: Pairs,
  options: {
    label: string;
    rows: Rows;
    weight: GpuParameter;
    transposed: boolean;
    out: Buffer | GPUBuffer;
    accumulate?: boolean;
  },
): void {
  const { label, rows, weight, transposed, accumulate = false } = options;
  const width = transposed ? weight.rows : weight.cols;
  const across = Math.ceil(width / side);
  context.run(product({
    label,
    side,
    arrays: {
      ...{ schedule: reads(schedule.memory, "u32"), rows: reads(rows.of) },
      ...{ weight: reads(weight.stored), out: writes(options.out) },
    },
    params: { across, depth: rows.width, width, each: weight.rows, stride: weight.stride },
    workgroups: schedule.tiles * across,
    place: (names) => `
  let tile = workgroup / params.across;
${tileOf(schedule, names.schedule, "tile")}
  let n0 = workgroup % params.across * ${side}u;
  let n_end = params.width;
  let k0 = 0u;
  let k_end = params.depth;`,
    a: {
      array: "rows",
      along: "k",
      halves: rows.halves,
      base(names, m) {
        const pair = pairAt(schedule, names.schedule, m);
        return `${pair}${rows.shared ? ` / ${topK}u` : ""} * params.depth`;
      },
    },
    b: {
      array: "weight",
      along: transposed ? "k" : "side",
      halves: weight.isRounded,
      base: (_, index) => `(id * params.each + ${index}) * params.stride`,
    },
    whole: areFours(rows.width, width),
    out: {
      array: "out",
      place: (names, m, n) => `${pairAt(schedule, names.schedule, m)} * params.width + ${n}`,
      value: (sum, { old }) => accumulate ? `${old} + ${sum}` : sum,
    },
  }));
}

/**
 * gradient of W[r, c] += sum over the expert's pairs of left[pair, r] right[pair, c]. An expert's many pairs
 * are cut up into several sums, so that nobody waits for the one that most rows have chosen.
 */
function addGradient(
  context: OpContext,
  { schedule, topK, count }: Pairs,
  options: { label: string; left: Rows; right: Rows; weight: GpuParameter },
): void {
  const { label, left, right, weight } = options;
  if (weight.gradient === null) return;
  const { rows, cols, padded: numbers } = weight;
  const average = count / schedule.count;
  const splits = Math.max(1, Math.min(MOST_SPLITS, Math.floor(average / LEAST_SPLIT)));
  const isCut = splits > 1;
  const out = isCut ? context.scratch("sums of products", splits * numbers * 4) : weight.gradient;
  const side = sideOf({ rows, cols, count: schedule.count * splits });
  const tiles = tilesOf(side, { rows, cols });
  const of = (names: Readonly<Record<"schedule", string>>, { width, shared }: Rows, k: string) =>
    `${pairAt(schedule, names.schedule, k)}${shared ? ` / ${topK}u` : ""} * ${width}u`;
  context.run(product({
    label,
    side,
    arrays: {
      ...{ schedule: reads(schedule.memory, "u32"), left: reads(left.of), right: reads(right.of) },
      out: writes(out),
    },
    params: { tiles, across: Math.ceil(cols / side), rows, cols, stride: weight.stride, numbers },
    workgroups: splits * schedule.count * tiles,
    place: (names) => `
  let split = workgroup / params.tiles / ${schedule.count}u;
  let id = workgroup / params.tiles % ${schedule.count}u;
  if (split >= ${splits}u) { return; }
  let tile = workgroup % params.tiles;
  let m0 = tile / params.across * ${side}u;
  let n0 = tile % params.across * ${side}u;
  let m_end = params.rows;
  let n_end = params.cols;
  let begin = ${names.schedule}[id];
  let end = ${names.schedule}[id + 1u];
  let terms = (end - begin + ${splits - 1}u) / ${splits}u;
  let k0 = min(begin + split * terms, end);
  let k_end = min(k0 + terms, end);
  ${isCut ? "" : "if (k0 == k_end) { return; }"}`,
    a: {
      array: "left",
      along: "side",
      halves: left.halves,
      base: (names, k) => of(names, left, k),
    },
    b: {
      array: "right",
      along: "side",
      halves: right.halves,
      base: (names, k) => of(names, right, k),
    },
    whole: areFours(rows, cols),
    out: {
      array: "out",
      place: (_, m, n) =>
        `${
          isCut ? "split * params.numbers + " : ""
        }(id * params.rows + ${m}) * params.stride + ${n}`,
      value: (sum, { old }) => isCut ? sum : `${old} + ${sum}`,
    },
  }));
  if (isCut) addSums(context, weight, { sums: out, splits });
}

/** Rows as products with weights in halves read them. */
function roundedRows(
  context: OpContext,
  rows: Rows,
  { name, count }: { name: string; count: number },
): Rows {
  const from = "kind" in rows.of ? bufferOf(rows.of).memory : rows.of;
  const of = roundedCopy(context, name, { from, count: count * rows.width });
  return { ...rows, of, halves: true };
}

/** What experts' gates and up matrices make of the rows. */
export function expertProducts(
  context: OpContext,
  params: params.ExpertGatesParams,
  trained: Trained,
): void {
  const { x, experts, kept } = params;
  const { gate, up } = trained.parametersOf(experts);
  const pairs = sorted(context, params);
  const rows = { of: x, width: experts.hidden, shared: true };
  const common = { rows, transposed: true };
  multiply(context, pairs, { label: "experts gate", ...common, weight: gate, out: kept.gate });
  multiply(context, pairs, { label: "experts up", ...common, weight: up, out: kept.up });
}

export function expertsBackward(
  context: OpContext,
  params: params.ExpertsBackwardParams,
  trained: Trained,
): void {
  const { x, experts, weights, topK, scale = 1, kept, outGradient, target, rows } = params;
  const { hidden, intermediate } = experts;
  const { gate, up, down } = trained.parametersOf(experts);
  const pairs = sorted(context, params);
  const count = rows * topK;
  const middle = context.scratch("experts' activations", count * intermediate * 4);
  const asRead = (name: string, of: Rows, count: number) =>
    down.isRounded ? roundedRows(context, of, { name, count }) : of;
  const wide = (name: string, of: Buffer) =>
    asRead(name, { of, width: hidden, shared: true }, rows);
  const own = (of: Buffer | GPUBuffer) =>
    asRead("experts' pairs", { of, width: intermediate, shared: false }, count);
  const gradients = wide("gradients", outGradient);
  multiply(context, pairs, {
    ...{ label: "experts middle gradient", rows: gradients, weight: down },
    ...{ transposed: false, out: middle },
  });
  context.run(kernel({
    label: "experts activation gradient",
    arrays: {
      ...{ weights: reads(weights), weightsGradient: writes(params.weightsGradient) },
      ...{ middle: writes(middle), gate: writes(kept.gate), up: writes(kept.up) },
    },
    params: { count, width: intermediate, scale: { f32: scale } },
    workgroups: count,
    threads: LANES,
    declare: () => `${totalMemory(LANES)}${SWIGLU_SLOPES}`,
    body: (names) => `
  if (workgroup >= params.count) { return; }
  let factor = params.scale * ${names.weights}[workgroup];
  var product = 0.0;
  for (var c = lane; c < params.width; c += ${LANES}u) {
    let i = workgroup * params.width + c;
    let slope = ${names.middle}[i];
    let slopes = swiglu_slopes(${names.gate}[i], ${names.up}[i]);
    product = fma(slope, slopes.z, product);
    ${names.gate}[i] = factor * slope * slopes.x;
    ${names.up}[i] = factor * slope * slopes.y;
    // What went into the product with down, times its factor.
    ${names.middle}[i] = factor * slopes.z;
  }
${total("sum", { threads: LANES, value: "product" })}
  if (lane == 0u) { ${names.weightsGradient}[workgroup] = params.scale * sum; }`,
  }));
  const values = context.scratch("experts' values", count * hidden * 4);
  const inputs = { label: "experts input gradient", transposed: false, out: values };
  const right = wide("inputs", x);
  const label = "experts weight gradient";
  for (const [of, weight, accumulate] of [[kept.gate, gate, false], [kept.up, up, true]] as const) {
    const left = own(of);
    multiply(context, pairs, { ...inputs, rows: left, weight, accumulate });
    addGradient(context, pairs, { label, left, right, weight });
  }
  addGradient(context, pairs, { label, left: gradients, right: own(middle), weight: down });
  each(context, {
    label: "experts input gradient, sums",
    arrays: { values: reads(values), out: writes(target.buffer) },
    params: { hidden },
    count: rows * hidden,
    body: (names) => `
  let base = i / params.hidden * ${topK}u * params.hidden + i % params.hidden;
  var sum = ${target.accumulate ? `${names.out}[i]` : "0.0"};
  for (var j = 0u; j < ${topK}u; j++) { sum += ${names.values}[base + j * params.hidden]; }
  ${names.out}[i] = sum;`,
  });
}
