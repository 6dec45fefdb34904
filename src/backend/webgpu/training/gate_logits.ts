/** From the gradients of rows' weights, and the loss that keeps experts in balance, to those of logits. */

import { CLOCK, TOTALS } from "../../training.ts";
import type * as params from "../../training_params.ts";
import type { OpContext } from "../ops/context.ts";
import { SIGMOID } from "../ops/moe_common.ts";
import { kernel, reads, total, totalMemory, writes } from "./arrays.ts";

/** Threads of a workgroup that has a row. */
const LANES = 64;
const THREADS = 256;

/**
 * Of each sequence, or the batch: f of each expert, `experts / (topK * rows) * rows that chose it`
 * (DeepSeek-V3, equation 18), where its first row is.
 */
export function fractionsOf(
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
export function logitsGradient(
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

/** The rows' shares, in the totals. */
export function addBalance(
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
