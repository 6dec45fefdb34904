/** How many rows chose each expert, and what correction biases do about it. */

import type * as params from "../../training_params.ts";
import type { OpContext } from "../ops/context.ts";
import { checkExpertCount } from "../ops/moe_common.ts";
import { each, kernel, reads, total, totalMemory, writes } from "./arrays.ts";
import type { Trained } from "./parameters.ts";

const THREADS = 256;
/** Pairs of a row and one of its experts that a workgroup counts. */
const RUN = 4096;

export function countExperts(context: OpContext, params: params.CountExpertsParams): void {
  const { expertIds, topK, counted, counts, row, rows } = params;
  const { width } = counts;
  checkExpertCount("countExperts", width);
  const pairs = rows * topK;
  const runs = Math.ceil(pairs / RUN);
  const own = context.scratch("counts of runs", runs * width * 4);
  context.run(kernel({
    label: "countExperts",
    arrays: { expertIds: reads(expertIds), counted: reads(counted), own: writes(own) },
    params: { pairs, runs },
    workgroups: runs,
    threads: THREADS,
    declare: () => `var<workgroup> chosen: array<atomic<u32>, ${width}>;`,
    body: (names) => `
  if (workgroup >= params.runs) { return; }
  for (var e = lane; e < ${width}u; e += ${THREADS}u) { atomicStore(&chosen[e], 0u); }
  workgroupBarrier();
  let end = min((workgroup + 1u) * ${RUN}u, params.pairs);
  for (var pair = workgroup * ${RUN}u + lane; pair < end; pair += ${THREADS}u) {
    let id = u32(${names.expertIds}[pair]);
    if (${names.counted}[pair / ${topK}u] != 0.0 && id < ${width}u) { atomicAdd(&chosen[id], 1u); }
  }
  workgroupBarrier();
  for (var e = lane; e < ${width}u; e += ${THREADS}u) {
    ${names.own}[workgroup * ${width}u + e] = f32(atomicLoad(&chosen[e]));
  }`,
  }));
  each(context, {
    label: "countExperts, sums",
    arrays: { own: reads(own), counts: writes(counts) },
    params: { row, runs },
    count: width,
    body: (names) => `
  var sum = 0.0;
  for (var run = 0u; run < params.runs; run++) { sum += ${names.own}[run * ${width}u + i]; }
  ${names.counts}[params.row * ${width}u + i] += sum;`,
  });
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
