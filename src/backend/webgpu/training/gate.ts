/** Gates: choices made before, and the backward pass of their weights. */

import type * as params from "../../training_params.ts";
import { BUILTINS, WORKGROUP } from "../kernel.ts";
import { bufferOf } from "../memory.ts";
import type { OpContext } from "../ops/context.ts";
import { logitsOf } from "../ops/gate.ts";
import { softmax, SOFTMAX_OF_CHOSEN, weigh } from "../ops/gate_choice.ts";
import { checkExpertCount, SIGMOID } from "../ops/moe_common.ts";
import { reads, writes } from "./arrays.ts";
import { addColumnSums } from "./columns.ts";
import { addBalance, fractionsOf, logitsGradient } from "./gate_logits.ts";
import type { Trained } from "./parameters.ts";
import { product, sideOf, tilesOf } from "./product.ts";
import { addInputGradient, addWeightGradient, areFours } from "./products.ts";

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
