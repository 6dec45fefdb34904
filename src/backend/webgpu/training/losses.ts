/** Log-probabilities of tokens, and the losses that are made of them. */

import { CLOCK, TOTALS } from "../../training.ts";
import type * as params from "../../training_params.ts";
import type { OpContext } from "../ops/context.ts";
import { kernel, reads, total, totalMemory, writes } from "./arrays.ts";

const THREADS = 256;

/** WGSL that leaves `largest` of a row's logits, and `powers`, the sum of e^((logit - largest) / temperature). */
function softmaxOf(logits: string): string {
  return `
  let base = workgroup * params.vocabulary;
  var most = -3e38;
  for (var i = lane; i < params.vocabulary; i += ${THREADS}u) { most = max(most, ${logits}[base + i]); }
${
    total("largest", {
      threads: THREADS,
      value: "most",
      combine: (a, b) => `max(${a}, ${b})`,
    })
  }
  var sum = 0.0;
  for (var i = lane; i < params.vocabulary; i += ${THREADS}u) {
    sum += exp((${logits}[base + i] - largest) * params.cold);
  }
${total("powers", { threads: THREADS, value: "sum" })}`;
}

function rowParams(
  { logits, temperature, rows }: Pick<
    params.TokenLogProbsParams,
    "logits" | "temperature" | "rows"
  >,
) {
  return { rows, vocabulary: logits.width, cold: { f32: 1 / temperature } };
}

export function tokenLogProbs(context: OpContext, params: params.TokenLogProbsParams): void {
  const { logits, targets, out, entropy, rows } = params;
  context.run(kernel<"logits" | "targets" | "out" | "entropy">({
    label: "tokenLogProbs",
    arrays: {
      ...{ logits: reads(logits), targets: reads(targets), out: writes(out) },
      entropy: writes(entropy ?? out),
    },
    params: rowParams(params),
    workgroups: rows,
    threads: THREADS,
    declare: () => totalMemory(THREADS),
    body: (names) => `
  if (workgroup >= params.rows) { return; }
${softmaxOf(names.logits)}
  let all = log(powers);
${
      entropy === undefined ? "" : `
  var products = 0.0;
  for (var i = lane; i < params.vocabulary; i += ${THREADS}u) {
    // Logits that are excluded have a power of 0, and no part in the sum.
    let difference = max((${names.logits}[base + i] - largest) * params.cold, -200.0);
    products = fma(exp(difference), difference - all, products);
  }
${total("mean", { threads: THREADS, value: "products" })}`
    }
  if (lane == 0u) {
    let target_id = min(u32(${names.targets}[workgroup]), params.vocabulary - 1u);
    ${names.out}[workgroup] = (${names.logits}[base + target_id] - largest) * params.cold - all;
    ${entropy === undefined ? "" : `${names.entropy}[workgroup] = -mean / powers;`}
  }`,
  }));
}

export function tokenLogProbsBackward(
  context: OpContext,
  params: params.TokenLogProbsBackwardParams,
): void {
  const { logits, targets, outGradient, logitsGradient, rows } = params;
  context.run(kernel({
    label: "tokenLogProbsBackward",
    arrays: {
      ...{ logits: reads(logits), targets: reads(targets), outGradient: reads(outGradient) },
      out: writes(logitsGradient),
    },
    params: rowParams(params),
    workgroups: rows,
    threads: THREADS,
    declare: () => totalMemory(THREADS),
    body: (names) => `
  if (workgroup >= params.rows) { return; }
${softmaxOf(names.logits)}
  let target_id = u32(${names.targets}[workgroup]);
  let factor = ${names.outGradient}[workgroup] * params.cold;
  for (var i = lane; i < params.vocabulary; i += ${THREADS}u) {
    let probability = exp((${names.logits}[base + i] - largest) * params.cold) / powers;
    ${names.out}[base + i] = factor * (select(0.0, 1.0, i == target_id) - probability);
  }`,
  }));
}

/** WGSL that adds what threads have summed up to numbers of the totals. */
function addTotals(totals: string, sums: readonly (readonly [row: number, sum: string])[]): string {
  return sums.map(([row, sum]) => `
${total(`total_${row}`, { threads: THREADS, value: sum })}
  if (lane == 0u) { ${totals}[${row}] += total_${row}; }`).join("");
}

export function likelihoodLoss(context: OpContext, params: params.LikelihoodLossParams): void {
  const { logProbs, tokenWeights, clock, gradient, totals, rows } = params;
  context.run(kernel({
    label: "likelihoodLoss",
    arrays: {
      ...{ logProbs: reads(logProbs), tokenWeights: reads(tokenWeights), clock: reads(clock) },
      ...{ gradient: writes(gradient), totals: writes(totals) },
    },
    params: { rows },
    workgroups: 1,
    threads: THREADS,
    declare: () => totalMemory(THREADS),
    body: (names) => `
  var loss = 0.0;
  var tokens = 0.0;
  for (var t = lane; t < params.rows; t += ${THREADS}u) {
    let weight = ${names.tokenWeights}[t];
    ${names.gradient}[t] = -weight * ${names.clock}[${CLOCK.lossScale}];
    if (weight != 0.0) {
      loss -= weight * ${names.logProbs}[t];
      tokens += 1.0;
    }
  }
${addTotals(names.totals, [[TOTALS.loss, "loss"], [TOTALS.tokens, "tokens"]])}`,
  }));
}

export function policyLoss(context: OpContext, params: params.PolicyLossParams): void {
  const { logProbs, tokenWeights, oldLogProbs, advantages, referenceLogProbs, rows } = params;
  const hasReference = referenceLogProbs !== undefined;
  context.run(kernel({
    label: "policyLoss",
    arrays: {
      ...{ logProbs: reads(logProbs), tokenWeights: reads(tokenWeights) },
      ...{ oldLogProbs: reads(oldLogProbs), advantages: reads(advantages) },
      ...{ references: reads(referenceLogProbs ?? logProbs), clock: reads(params.clock) },
      ...{ gradient: writes(params.gradient), totals: writes(params.totals) },
    },
    params: {
      rows,
      least: { f32: 1 - params.clipLow },
      most: { f32: 1 + params.clipHigh },
      coefficient: { f32: params.klCoefficient },
    },
    workgroups: 1,
    threads: THREADS,
    declare: () => totalMemory(THREADS),
    body: (names) => `
  var loss = 0.0;
  var tokens = 0.0;
  var divergence = 0.0;
  var clips = 0.0;
  var ratios = 0.0;
  for (var t = lane; t < params.rows; t += ${THREADS}u) {
    let weight = ${names.tokenWeights}[t];
    ${names.gradient}[t] = 0.0;
    if (weight == 0.0) { continue; }
    let advantage = ${names.advantages}[t];
    let ratio = exp(${names.logProbs}[t] - ${names.oldLogProbs}[t]);
    let within = clamp(ratio, params.least, params.most);
    let clipped = (advantage < 0.0 && ratio < params.least) ||
      (advantage > 0.0 && ratio > params.most);
    let difference = ${hasReference ? `${names.references}[t] - ${names.logProbs}[t]` : "0.0"};
    let power = exp(difference);
    let k3 = power - difference - 1.0;
    let slope = select(-ratio * advantage, 0.0, clipped) + params.coefficient * (1.0 - power);
    ${names.gradient}[t] = weight * slope * ${names.clock}[${CLOCK.lossScale}];
    loss += weight * (params.coefficient * k3 - min(ratio * advantage, within * advantage));
    tokens += 1.0;
    divergence += k3;
    clips += select(0.0, 1.0, clipped);
    ratios += ratio;
  }
${
      addTotals(names.totals, [
        [TOTALS.loss, "loss"],
        [TOTALS.tokens, "tokens"],
        [TOTALS.kl, "divergence"],
        [TOTALS.clipped, "clips"],
        [TOTALS.ratio, "ratios"],
      ])
    }`,
  }));
}
