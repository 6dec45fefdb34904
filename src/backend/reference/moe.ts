/**
 * What the gate and the routed experts mean, on plain arrays. The gate rounds to float32 where the
 * official implementations do: logits, scores, choice scores, sums and weights, one rounding each.
 */

import { dot, type Matrix } from "./ops.ts";
import type { ExpertsParams, GateParams } from "../backend.ts";

/** How a gate chooses; its weights as arrays. */
export interface GateRule {
  readonly weight: Matrix;
  readonly bias: Float32Array | undefined;
  readonly correctionBias: Float32Array | undefined;
  readonly score: GateParams["score"];
  readonly groups: GateParams["groups"];
  readonly topK: number;
  readonly normalise: boolean;
  readonly scale: number;
}

/** Routes one normalised row: fills `expertIds` and `weights`, topK each, the best first. */
export function routeRow(rule: GateRule, options: RoutedRow): void {
  const { correctionBias, topK } = rule;
  const { expertIds } = options;
  const scores = rowScores(rule, options.x);
  const choice = scores.map((value, e) => value + (correctionBias?.[e] ?? 0));
  if (rule.groups !== undefined) excludeGroups(choice, rule.groups);
  expertIds.set(best(choice, topK));
  weighRow(rule, scores, options);
}

/** As `routeRow`, for experts that have been chosen before: fills `weights`. */
export function replayRow(rule: GateRule, options: RoutedRow): void {
  weighRow(rule, rowScores(rule, options.x), options);
}

interface RoutedRow {
  readonly x: Float32Array;
  readonly expertIds: Int32Array;
  readonly weights: Float32Array;
}

function rowScores({ weight, bias, score }: GateRule, x: Float32Array): Float32Array {
  const logits = new Float32Array(weight.rows);
  for (let e = 0; e < weight.rows; e++) {
    logits[e] = dot(weight, { row: e, x, offset: 0 }) + (bias?.[e] ?? 0);
  }
  return scoresOf(logits, score);
}

function weighRow(
  rule: GateRule,
  scores: Float32Array,
  { expertIds, weights }: RoutedRow,
): void {
  const { score, topK } = rule;
  const chosen = Float32Array.from(expertIds, (e) => scores[e]);
  weights.set(score === "softmaxOfChosen" ? softmax(chosen) : chosen);
  if (rule.normalise) {
    const total = Math.fround(Math.fround(weights.reduce((sum, value) => sum + value, 0)) + 1e-20);
    for (let j = 0; j < topK; j++) weights[j] /= total;
  }
  for (let j = 0; j < topK; j++) weights[j] *= rule.scale;
}

function scoresOf(logits: Float32Array, score: GateParams["score"]): Float32Array {
  switch (score) {
    case "softmax":
      return softmax(logits);
    case "sigmoid":
      return logits.map((logit) => 1 / (1 + Math.exp(-logit)));
    case "softmaxOfChosen":
      return logits;
  }
}

function softmax(logits: Float32Array): Float32Array {
  const largest = logits.reduce((most, logit) => Math.max(most, logit), -Infinity);
  const powers = Float64Array.from(logits, (logit) => Math.exp(logit - largest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return Float32Array.from(powers, (power) => power / total);
}

/**
 * Sets the choice scores of all but the best groups to -Infinity (not to 0, which would beat negative
 * scores): DeepSeek-V2, section 2.1.3 (rank "max"), DeepSeek-V3, section 2.1.2 ("topTwo").
 */
function excludeGroups(choice: Float32Array, groups: NonNullable<GateParams["groups"]>): void {
  const size = choice.length / groups.count;
  const ranks = Float32Array.from({ length: groups.count }, (_, g) => {
    const members = choice.subarray(g * size, (g + 1) * size);
    const [first, second] = best(members, groups.rank === "max" ? 1 : 2);
    return groups.rank === "max" ? members[first] : members[first] + members[second];
  });
  const used = new Set(best(ranks, groups.used));
  for (let g = 0; g < groups.count; g++) {
    if (!used.has(g)) choice.fill(-Infinity, g * size, (g + 1) * size);
  }
}

/** Indices of the `count` largest values, largest first, of equals the lower index. */
function best(values: Float32Array, count: number): number[] {
  const indices = Array.from(values, (_, i) => i);
  // A NaN ranks last, so that the order is one even then.
  const key = (i: number) => Number.isNaN(values[i]) ? -Infinity : values[i];
  indices.sort((a, b) => key(a) === key(b) ? a - b : key(a) > key(b) ? -1 : 1);
  return indices.slice(0, count);
}

/** One expert's matrices. */
export interface ExpertMatrices {
  /** [intermediate, hidden] */
  readonly gate: Matrix;
  readonly up: Matrix;
  /** [hidden, intermediate] */
  readonly down: Matrix;
  readonly biases:
    | {
      readonly gate: Float32Array;
      readonly up: Float32Array;
      readonly down: Float32Array;
    }
    | undefined;
}

/** out += factor * expert(x) for one row; the activations in the middle are rounded to float32. */
export function addExpert(
  { gate, up, down, biases }: ExpertMatrices,
  options: {
    x: Float32Array;
    activation: ExpertsParams["activation"];
    factor: number;
    out: Float32Array;
  },
): void {
  const { x, activation, factor, out } = options;
  const middle = new Float32Array(gate.rows);
  for (let row = 0; row < gate.rows; row++) {
    const g = dot(gate, { row, x, offset: 0 }) + (biases?.gate[row] ?? 0);
    const u = dot(up, { row, x, offset: 0 }) + (biases?.up[row] ?? 0);
    middle[row] = activated(activation, { gate: g, up: u });
  }
  for (let row = 0; row < down.rows; row++) {
    const value = dot(down, { row, x: middle, offset: 0 }) + (biases?.down[row] ?? 0);
    out[row] += factor * value;
  }
}

/** Where clampedSwiglu cuts gate and up off, and the steepness of its sigmoid (GPT-OSS's config). */
const SWIGLU_LIMIT = 7;
const SWIGLU_ALPHA = 1.702;

function activated(
  activation: ExpertsParams["activation"],
  { gate, up }: { gate: number; up: number },
): number {
  if (activation === "silu") return gate / (1 + Math.exp(-gate)) * up;
  const g = Math.min(gate, SWIGLU_LIMIT);
  const u = Math.max(-SWIGLU_LIMIT, Math.min(up, SWIGLU_LIMIT));
  return (u + 1) * g / (1 + Math.exp(-SWIGLU_ALPHA * g));
}
