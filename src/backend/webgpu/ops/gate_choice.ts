/**
 * The gate's choice: scores, groups, the best experts and their weights, a workgroup a row. A rank is
 * the number of those that come before: no round of comparisons waits for another, and ties have an
 * order. Compared are integers that are ordered as the numbers are, so that NaN has its place too (last).
 */

import type { GateParams } from "../../backend.ts";
import { BUILTINS, type Dispatch, WORKGROUP } from "../kernel.ts";
import { bufferOf, weightOf } from "../memory.ts";
import { SIGMOID } from "./moe_common.ts";

const KEYS = `
fn keyOf(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u || bits == 0xff800000u) { return 0u; }
  if (magnitude == 0u) { return 0x80000000u; }
  return select(bits | 0x80000000u, ~bits, bits > 0x80000000u);
}
fn valueOf(key: u32) -> f32 {
  return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
}`;

export function choice(params: GateParams, logits: GPUBuffer): Dispatch {
  const { correctionBias, score, groups, topK, scale, rows } = params;
  const experts = params.weight.rows;
  const threads = experts > 128 ? 256 : experts > 64 ? 128 : 64;
  return {
    label: `gate choice ${topK} of ${experts}`,
    bindings: [
      { name: "logits", buffer: logits },
      ...(correctionBias
        ? [{ name: "correction", buffer: weightOf(correctionBias).parts[0].memory }]
        : []),
      {
        name: "expertIds",
        buffer: bufferOf(params.expertIds).memory,
        type: "array<i32>",
        write: true,
      },
      { name: "weights", buffer: bufferOf(params.weights).memory, write: true },
    ],
    params: { rows, scale: { f32: scale } },
    workgroups: rows,
    code: `${KEYS}${SIGMOID}
const THREADS = ${threads}u;
const EXPERTS = ${experts}u;
const TOP_K = ${topK}u;
var<workgroup> scores: array<f32, ${experts}>;
var<workgroup> keys: array<u32, ${experts}>;
var<workgroup> chosen: array<f32, ${topK}>;
${score === "softmax" ? `var<workgroup> partial: array<f32, ${threads}>;` : ""}
${score === "softmaxOfChosen" ? `var<workgroup> weighed: array<f32, ${topK}>;` : ""}
${groups ? `var<workgroup> ranks: array<u32, ${groups.count}>;` : ""}
@compute @workgroup_size(${threads}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  if (workgroup >= params.rows) { return; }
  for (var e = lane; e < EXPERTS; e += THREADS) {
    let logit = logits[workgroup * EXPERTS + e];
    scores[e] = ${score === "sigmoid" ? "sigmoid(logit)" : "logit"};
  }
  ${score === "softmax" ? softmax(threads) : ""}
  for (var e = lane; e < EXPERTS; e += THREADS) {
    keys[e] = keyOf(scores[e]${correctionBias ? " + correction[e]" : ""});
  }
  workgroupBarrier();
  ${groups ? exclusion(groups, experts) : ""}
  for (var e = lane; e < EXPERTS; e += THREADS) {
    let key = keys[e];
    var rank = 0u;
    for (var other = 0u; other < EXPERTS; other++) {
      rank += u32(keys[other] > key || (keys[other] == key && other < e));
    }
    if (rank < TOP_K) {
      chosen[rank] = scores[e];
      expertIds[workgroup * TOP_K + rank] = i32(e);
    }
  }
  workgroupBarrier();
  ${score === "softmaxOfChosen" ? SOFTMAX_OF_CHOSEN : ""}
  for (var j = lane; j < TOP_K; j += THREADS) {
    ${weigh(score === "softmaxOfChosen" ? "weighed" : "chosen", params.normalise)}
  }
}`,
  };
}

/** Replaces logits by their softmax. Each thread goes on with the scores it has written itself. */
export function softmax(threads: number): string {
  const reduce = (combine: string) =>
    `workgroupBarrier();
  for (var half = ${threads / 2}u; half > 0u; half /= 2u) {
    if (lane < half) { partial[lane] = ${combine}; }
    workgroupBarrier();
  }`;
  return `var largest = scores[0];
  if (lane < EXPERTS) { largest = scores[lane]; }
  for (var e = lane; e < EXPERTS; e += THREADS) { largest = max(largest, scores[e]); }
  partial[lane] = largest;
  ${reduce("max(partial[lane], partial[lane + half])")}
  largest = partial[0];
  workgroupBarrier();
  var sum = 0.0;
  for (var e = lane; e < EXPERTS; e += THREADS) {
    scores[e] = exp(scores[e] - largest);
    sum += scores[e];
  }
  partial[lane] = sum;
  ${reduce("partial[lane] + partial[lane + half]")}
  for (var e = lane; e < EXPERTS; e += THREADS) { scores[e] /= partial[0]; }`;
}

/** Ranks groups, and puts the experts of all but the best behind every other. */
function exclusion(
  { count, used, rank }: NonNullable<GateParams["groups"]>,
  experts: number,
): string {
  const size = experts / count;
  return `for (var g = lane; g < ${count}u; g += THREADS) {
    var first = 0u;
    var second = 0u;
    for (var e = g * ${size}u; e < (g + 1u) * ${size}u; e++) {
      second = max(second, min(first, keys[e]));
      first = max(first, keys[e]);
    }
    ranks[g] = ${rank === "max" ? "first" : "keyOf(valueOf(first) + valueOf(second))"};
  }
  workgroupBarrier();
  for (var e = lane; e < EXPERTS; e += THREADS) {
    let g = e / ${size}u;
    var before = 0u;
    for (var other = 0u; other < ${count}u; other++) {
      before += u32(ranks[other] > ranks[g] || (ranks[other] == ranks[g] && other < g));
    }
    if (before >= ${used}u) { keys[e] = 0u; }
  }
  workgroupBarrier();`;
}

export const SOFTMAX_OF_CHOSEN = `for (var j = lane; j < TOP_K; j += THREADS) {
    var largest = chosen[0];
    for (var i = 1u; i < TOP_K; i++) { largest = max(largest, chosen[i]); }
    var total = 0.0;
    for (var i = 0u; i < TOP_K; i++) { total += exp(chosen[i] - largest); }
    weighed[j] = exp(chosen[j] - largest) / total;
  }
  workgroupBarrier();`;

export function weigh(values: string, normalise: boolean): string {
  const at = "weights[workgroup * TOP_K + j]";
  if (!normalise) return `${at} = ${values}[j] * params.scale;`;
  return `var total = 0.0;
    for (var i = 0u; i < TOP_K; i++) { total += ${values}[i]; }
    ${at} = ${values}[j] / (total + 1e-20) * params.scale;`;
}
