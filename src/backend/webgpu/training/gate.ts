/** Gates: choices made before, the backward pass of their weights, and what keeps experts in balance. */

import { CLOCK, TOTALS } from "../../training.ts";
import type * as params from "../../training_params.ts";
import { BUILTINS, WORKGROUP } from "../kernel.ts";
import { bufferOf } from "../memory.ts";
import type { OpContext } from "../ops/context.ts";
import { logitsOf } from "../ops/gate.ts";
import { softmax, SOFTMAX_OF_CHOSEN, weigh } from "../ops/gate_choice.ts";
import { checkExpertCount, SIGMOID } from "../ops/moe_common.ts";
import { kernel, reads, total, totalMemory, writes } from "./arrays.ts";
import { addColumnSums } from "./columns.ts";
import type { Trained } from "./parameters.ts";
import { product, sideOf, tilesOf } from "./product.ts";
import { addInputGradient, addWeightGradient, areFours } from "./products.ts";

/** Threads of a workgroup that has a row. */
const LANES = 64;
const THREADS = 256;

/** As the gate's choice weighs what it has chosen. */
export function replayGate(context: OpContext, params: params.ReplayGateParams): void {
  const { weight: { rows: experts }, score, topK, normalise, scale, rows } = params;
  checkExpertCount("replayGate", experts);
  const logits = context.scratch("gate logits", rows * experts * 4);
  context.run(logitsOf(params, logits));
  // The sums of a softmax depend on the threads: as many as the choice has.
  const threads = experts > 128 ? 256 : experts > 64 ? 128 : 64;
  context.run({
    label: `gate replay ${topK} of ${experts}`,
    bindings: [
      { name: "logits", buffer: logits },
      { name: "expertIds", buffer: bufferOf(params.expertIds).memory, type: "array<i32>" },
      { name: "weights", buffer: bufferOf(params.weights).memory, write: true },
    ],
    params: { rows, scale: { f32: scale } },
    workgroups: rows,
    code: `${SIGMOID}
const THREADS = ${threads}u;
const EXPERTS = ${experts}u;
const TOP_K = ${topK}u;
var<workgroup> scores: array<f32, ${experts}>;
var<workgroup> chosen: array<f32, ${topK}>;
${score === "softmax" ? `var<workgroup> partial: array<f32, ${threads}>;` : ""}
${score === "softmaxOfChosen" ? `var<workgroup> weighed: array<f32, ${topK}>;` : ""}
@compute @workgroup_size(${threads}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  if (workgroup >= params.rows) { return; }
  for (var e = lane; e < EXPERTS; e += THREADS) {
    let logit = logits[workgroup * EXPERTS + e];
    scores[e] = ${score === "sigmoid" ? "sigmoid(logit)" : "logit"};
  }
  ${score === "softmax" ? softmax(threads) : ""}
  workgroupBarrier();
  for (var j = lane; j < TOP_K; j += THREADS) {
    chosen[j] = scores[min(u32(expertIds[workgroup * TOP_K + j]), EXPERTS - 1u)];
  }
  workgroupBarrier();
  ${score === "softmaxOfChosen" ? SOFTMAX_OF_CHOSEN : ""}
  for (var j = lane; j < TOP_K; j += THREADS) {
    ${weigh(score === "softmaxOfChosen" ? "weighed" : "chosen", normalise)}
  }
}`,
  });
}

export function gateBackward(
  context: OpContext,
  params: params.GateBackwardParams,
  trained: Trained,
): void {
  const { normed, balance, target, rows } = params;
  const { rows: experts, cols } = params.weight;
  checkExpertCount("gateBackward", experts);
  const weight = trained.parameterOf(params.weight);
  const bias = params.bias && trained.parameterOf(params.bias);
  const logits = context.scratch("gate logits", rows * experts * 4);
  const shape = { rows, cols: experts };
  const side = sideOf(shape);
  const tiles = tilesOf(side, shape);
  context.run(product({
    label: `gate logits again ${experts}x${cols}`,
    side,
    arrays: {
      ...{ normed: reads(normed), weight: reads(weight.value) },
      ...{ bias: reads(bias?.value ?? weight.value), logits: writes(logits) },
    },
    params: {
      rows,
      experts,
      cols,
      tiles,
      across: Math.ceil(experts / side),
      stride: weight.stride,
    },
    workgroups: tiles,
    place: () => `
  if (workgroup >= params.tiles) { return; }
  let m0 = workgroup / params.across * ${side}u;
  let n0 = workgroup % params.across * ${side}u;
  let m_end = params.rows;
  let n_end = params.experts;
  let k0 = 0u;
  let k_end = params.cols;`,
    a: { array: "normed", along: "k", base: (_, m) => `${m} * params.cols` },
    b: { array: "weight", along: "k", base: (_, n) => `${n} * params.stride` },
    whole: bias === undefined && areFours(cols, experts),
    out: {
      array: "logits",
      place: (_, m, n) => `${m} * params.experts + ${n}`,
      value: (sum, { names, n }) => bias ? `${sum} + ${names.bias}[${n}]` : sum,
    },
  }));
  const fractions = balance && fractionsOf(context, balance, { ...params, experts });
  const gradient = context.scratch("gate gradient", rows * experts * 4);
  const shares = context.scratch("balance of rows", rows * 4);
  logitsGradient(context, params, { logits, fractions, gradient, shares });
  if (balance !== undefined) addBalance(context, balance, { shares, rows });
  const own = { memory: gradient, stride: experts, each: 0 };
  const rowsOf = (buffer: typeof normed) => ({
    ...{ memory: bufferOf(buffer).memory, stride: buffer.width, each: 0 },
  });
  const matrix = { heads: 1, outDim: experts, cols, rows, scale: 1, gradient: own };
  const inputs = { target: rowsOf(target.buffer), accumulate: target.accumulate };
  addInputGradient(context, weight, { ...matrix, ...inputs });
  addWeightGradient(context, weight, { ...matrix, x: rowsOf(normed) });
  if (bias === undefined) return;
  addColumnSums(context, {
    label: "gate's bias gradient",
    arrays: { gradient: reads(gradient) },
    params: {},
    ...{ rows, cols: experts, into: bias.gradient },
    value: (names) => `let value = ${names.gradient}[row * params.cols + col];`,
  });
}

/**
 * Of each sequence, or the batch: f of each expert, `experts / (topK * rows) * rows that chose it`
 * (DeepSeek-V3, equation 18), where its first row is.
 */
function fractionsOf(
  context: OpContext,
  balance: params.BalanceParams,
  { expertIds, topK, experts, rows }: params.GateBackwardParams & { experts: number },
): GPUBuffer {
  const fractions = context.scratch("balance fractions", rows * experts * 4);
  const isBatch = balance.over === "batch";
  context.run(kernel({
    label: `balance fractions over ${balance.over}`,
    arrays: {
      ...{ expertIds: reads(expertIds), fractions: writes(fractions) },
      ...{ rowWeights: reads(balance.rowWeights), positions: reads(balance.positions) },
    },
    params: { rows },
    workgroups: isBatch ? 1 : rows,
    threads: THREADS,
    declare: () => `
var<workgroup> counts: array<atomic<u32>, ${experts}>;
var<workgroup> members: atomic<u32>;`,
    body: (names) => `
  if (workgroup >= ${isBatch ? "1u" : "params.rows"}) { return; }
  ${isBatch ? "" : `if (${names.positions}[workgroup] != 0) { return; }`}
  for (var e = lane; e < ${experts}u; e += ${THREADS}u) { atomicStore(&counts[e], 0u); }
  if (lane == 0u) { atomicStore(&members, 0u); }
  workgroupBarrier();
  for (var row = workgroup + lane; row < params.rows; row += ${THREADS}u) {
    ${
      isBatch
        ? `if (${names.rowWeights}[row] == 0.0) { continue; }`
        : `if (row - u32(${names.positions}[row]) != workgroup) { break; }`
    }
    atomicAdd(&members, 1u);
    for (var j = 0u; j < ${topK}u; j++) {
      atomicAdd(&counts[min(u32(${names.expertIds}[row * ${topK}u + j]), ${experts - 1}u)], 1u);
    }
  }
  workgroupBarrier();
  let share = ${experts}.0 / (${topK}.0 * f32(atomicLoad(&members)));
  for (var e = lane; e < ${experts}u; e += ${THREADS}u) {
    ${names.fractions}[workgroup * ${experts}u + e] = share * f32(atomicLoad(&counts[e]));
  }`,
  }));
  return fractions;
}

/** From the gradients of a row's weights, and the balance loss, to those of its logits. */
function logitsGradient(
  context: OpContext,
  params: params.GateBackwardParams,
  { logits, fractions, gradient, shares }: {
    logits: GPUBuffer;
    fractions: GPUBuffer | undefined;
    gradient: GPUBuffer;
    shares: GPUBuffer;
  },
): void {
  const { weight: { rows: experts }, score, topK, normalise, scale, balance, rows } = params;
  const isSigmoid = score === "sigmoid";
  const each = (text: string) =>
    `for (var e = lane; e < ${experts}u; e += ${LANES}u) {
    ${text}
  }`;
  const sum = (name: string, term: string) => `
  var ${name}_part = 0.0;
  ${each(`${name}_part += ${term};`)}
${total(name, { threads: LANES, value: `${name}_part` })}`;
  const softmaxed = () => `
  var most = -3e38;
  ${each("if (scores[e] > -3e38) { most = max(most, scores[e]); }")}
${total("largest", { threads: LANES, value: "most", combine: (a, b) => `max(${a}, ${b})` })}
  ${each("scores[e] = select(0.0, exp(scores[e] - largest), scores[e] > -3e38);")}
${sum("powers", "scores[e]")}
  ${each("scores[e] /= powers;")}
  workgroupBarrier();`;
  context.run(kernel<
    | ("logits" | "expertIds" | "weightsGradient" | "gradient")
    | ("fractions" | "rowWeights" | "positions" | "clock" | "shares")
  >({
    label: `gate gradient, ${score}`,
    arrays: {
      ...{ logits: reads(logits), expertIds: reads(params.expertIds) },
      ...{ weightsGradient: reads(params.weightsGradient), gradient: writes(gradient) },
      // Where there is no balance loss these aren't read.
      fractions: reads(fractions ?? logits),
      rowWeights: reads(balance?.rowWeights ?? logits),
      positions: reads(balance?.positions ?? params.expertIds),
      clock: reads(balance?.clock ?? logits),
      shares: writes(shares),
    },
    params: { rows, scale: { f32: scale } },
    workgroups: rows,
    threads: LANES,
    declare: () =>
      `${SIGMOID}${totalMemory(LANES)}
var<workgroup> scores: array<f32, ${experts}>;
var<workgroup> slopes: array<f32, ${experts}>;
var<workgroup> ids: array<u32, ${topK}>;`,
    body: (names) => `
  if (workgroup >= params.rows) { return; }
  for (var j = lane; j < ${topK}u; j += ${LANES}u) {
    ids[j] = min(u32(${names.expertIds}[workgroup * ${topK}u + j]), ${experts - 1}u);
  }
  workgroupBarrier();
  ${
      each(`let logit = ${names.logits}[workgroup * ${experts}u + e];
    ${
        score !== "softmaxOfChosen"
          ? `scores[e] = ${isSigmoid ? "sigmoid(logit)" : "logit"};`
          : `var takesPart = false;
    for (var j = 0u; j < ${topK}u; j++) { takesPart = takesPart || ids[j] == e; }
    scores[e] = select(-3.4e38, logit, takesPart);`
      }
    slopes[e] = 0.0;`)
    }
  workgroupBarrier();
  ${isSigmoid ? "" : softmaxed()}
  ${
      normalise
        ? `
  // w_j = s_j / S: dw_j / ds_i = (delta_ij - w_j) / S
  var chosen = 1e-20;
  var product = 0.0;
  for (var j = 0u; j < ${topK}u; j++) {
    let score = scores[ids[j]];
    chosen += score;
    product = fma(${names.weightsGradient}[workgroup * ${topK}u + j], score, product);
  }
  let mean = product / chosen;
  let factor = params.scale / chosen;`
        : `
  let mean = 0.0;
  let factor = params.scale;`
    }
  for (var j = lane; j < ${topK}u; j += ${LANES}u) {
    slopes[ids[j]] = factor * (${names.weightsGradient}[workgroup * ${topK}u + j] - mean);
  }
  workgroupBarrier();
  ${
      balance === undefined ? "" : `
  let first = ${
        balance.over === "batch" ? "0u" : `(workgroup - u32(${names.positions}[workgroup]))`
      } * ${experts}u;
${sum("all", "scores[e]")}
${sum("products", `${names.fractions}[first + e] * scores[e]`)}
  let loss = products / all;
  let weight = ${names.rowWeights}[workgroup];
  if (lane == 0u) { ${names.shares}[workgroup] = select(weight * loss, 0.0, weight == 0.0); }
  let balancing = weight * ${names.clock}[${CLOCK.lossScale}] / all;
  if (weight != 0.0) {
    ${each(`slopes[e] = fma(balancing, ${names.fractions}[first + e] - loss, slopes[e]);`)}
  }
  workgroupBarrier();`
    }
  ${isSigmoid ? "" : sum("inner", "scores[e] * slopes[e]")}
  ${
      each(`let score = scores[e];
    ${names.gradient}[workgroup * ${experts}u + e] = ${
        isSigmoid ? "slopes[e] * score * (1.0 - score)" : "score * (slopes[e] - inner)"
      };`)
    }`,
  }));
}

function addBalance(
  context: OpContext,
  { totals }: params.BalanceParams,
  { shares, rows }: { shares: GPUBuffer; rows: number },
): void {
  context.run(kernel({
    label: "balance loss",
    arrays: { shares: reads(shares), totals: writes(totals) },
    params: { rows },
    workgroups: 1,
    threads: THREADS,
    declare: () => totalMemory(THREADS),
    body: (names) => `
  var share = 0.0;
  for (var t = lane; t < params.rows; t += ${THREADS}u) { share += ${names.shares}[t]; }
${total("loss", { threads: THREADS, value: "share" })}
  if (lane == 0u) { ${names.totals}[${TOTALS.balance}] += loss; }`,
  }));
}

export function countExperts(context: OpContext, params: params.CountExpertsParams): void {
  const { expertIds, topK, counted, counts, row, rows } = params;
  const { width } = counts;
  checkExpertCount("countExperts", width);
  context.run(kernel({
    label: "countExperts",
    arrays: { expertIds: reads(expertIds), counted: reads(counted), counts: writes(counts) },
    params: { pairs: rows * topK, row },
    workgroups: 1,
    threads: THREADS,
    declare: () => `var<workgroup> chosen: array<atomic<u32>, ${width}>;`,
    body: (names) => `
  for (var e = lane; e < ${width}u; e += ${THREADS}u) { atomicStore(&chosen[e], 0u); }
  workgroupBarrier();
  for (var pair = lane; pair < params.pairs; pair += ${THREADS}u) {
    let id = u32(${names.expertIds}[pair]);
    if (${names.counted}[pair / ${topK}u] != 0.0 && id < ${width}u) { atomicAdd(&chosen[id], 1u); }
  }
  workgroupBarrier();
  for (var e = lane; e < ${width}u; e += ${THREADS}u) {
    ${names.counts}[params.row * ${width}u + e] += f32(atomicLoad(&chosen[e]));
  }`,
  }));
}

export function updateCorrectionBias(
  context: OpContext,
  params: params.UpdateCorrectionBiasParams,
  trained: Trained,
): void {
  const { counts, row, rate } = params;
  const bias = trained.parameterOf(params.bias);
  context.run(kernel({
    label: "updateCorrectionBias",
    arrays: { counts: reads(counts), rate: reads(rate), bias: writes(bias.value) },
    params: { experts: bias.cols, base: row * counts.width },
    workgroups: 1,
    threads: THREADS,
    declare: () => totalMemory(THREADS),
    body: (names) => `
  var part = 0.0;
  for (var e = lane; e < params.experts; e += ${THREADS}u) { part += ${names.counts}[params.base + e]; }
${total("all", { threads: THREADS, value: "part" })}
  let mean = all / f32(params.experts);
  for (var e = lane; e < params.experts; e += ${THREADS}u) {
    ${names.bias}[e] = fma(${names.rate}[0], sign(mean - ${names.counts}[params.base + e]), ${names.bias}[e]);
  }`,
  }));
}
