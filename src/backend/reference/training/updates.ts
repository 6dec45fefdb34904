/** Optimiser steps on plain arrays; moments are kept in float32, everything between in double precision. */

import { CLOCK } from "../../training.ts";
import type { PrepareUpdateParams, UpdateRule } from "../../training_params.ts";
import type { TrainedTensors } from "./parameters.ts";

type Clock = Float32Array;

/** Where PyTorch's `clip_grad_norm_` keeps from dividing by 0. */
const CLIP_EPS = 1e-6;

/** What `prepareUpdate` means. */
export function prepare(
  tensors: readonly TrainedTensors[],
  options: Omit<PrepareUpdateParams, "parameters" | "clock"> & { clock: Clock },
): void {
  const { clock, maxNorm = Infinity, beta1, beta2, scaling } = options;
  const scale = clock[CLOCK.lossScale];
  let squares = 0;
  for (const tensor of tensors) for (const g of tensor.slot("gradient")) squares += g * g;
  const norm = Math.sqrt(squares) / scale;
  const applies = Number.isFinite(norm);
  clock[CLOCK.norm] = norm;
  clock[CLOCK.applies] = applies ? 1 : 0;
  clock[CLOCK.factor] = applies ? Math.min(1, maxNorm / (norm + CLIP_EPS)) / scale : 0;
  if (applies) {
    // 1 - beta^(t + 1) = (1 - beta^t) beta + (1 - beta), without the cancellation.
    for (const [at, beta] of [[CLOCK.correction1, beta1], [CLOCK.correction2, beta2]]) {
      clock[at] = clock[at] * beta + (1 - beta);
    }
    clock[CLOCK.updates] += 1;
  } else clock[CLOCK.skipped] += 1;
  if (scaling === undefined) return;
  if (!applies) {
    clock[CLOCK.lossScale] *= scaling.backoff;
    clock[CLOCK.goodSteps] = 0;
    return;
  }
  clock[CLOCK.goodSteps] += 1;
  if (clock[CLOCK.goodSteps] < scaling.interval) return;
  clock[CLOCK.lossScale] *= scaling.growth;
  clock[CLOCK.goodSteps] = 0;
}

/** What `update` means for the tensors of one parameter. */
export function updateTensors(
  tensors: TrainedTensors,
  options: { rule: UpdateRule; rate: number; decay: number; clock: Clock },
): void {
  if (options.clock[CLOCK.applies] === 0) return;
  const { each } = tensors;
  for (const i of tensors.names.keys()) {
    const part = (values: Float32Array) => values.subarray(i * each, (i + 1) * each);
    const of = {
      p: part(tensors.master),
      g: part(tensors.slot("gradient")),
      m: part(tensors.slot("first")),
    };
    const { rule } = options;
    if (rule.kind === "lars") stepLars(of, { ...options, rule });
    else stepAdaptive({ ...of, v: part(tensors.slot("second")) }, { ...options, rule });
  }
  tensors.store();
}

type Of<Kind> = Extract<UpdateRule, { kind: Kind }>;

function stepAdaptive(
  { p, g, m, v }: { p: Float32Array; g: Float32Array; m: Float32Array; v: Float32Array },
  options: { rule: Of<"adamw" | "lamb">; rate: number; decay: number; clock: Clock },
): void {
  const { rule, decay, clock } = options;
  const { beta1, beta2, eps } = rule;
  const rate = options.rate * clock[CLOCK.rate];
  const step = new Float64Array(p.length);
  for (let i = 0; i < p.length; i++) {
    const gradient = g[i] * clock[CLOCK.factor];
    m[i] = beta1 * m[i] + (1 - beta1) * gradient;
    v[i] = beta2 * v[i] + (1 - beta2) * gradient * gradient;
    const mean = m[i] / clock[CLOCK.correction1];
    const deviation = Math.sqrt(v[i] / clock[CLOCK.correction2]);
    step[i] = mean / (deviation + eps) + decay * p[i];
  }
  const isLamb = rule.kind === "lamb" && decay !== 0;
  const trust = isLamb ? ratioOf(normOf(p), normOf(step)) : 1;
  for (let i = 0; i < p.length; i++) p[i] -= rate * trust * step[i];
}

function stepLars(
  { p, g, m }: { p: Float32Array; g: Float32Array; m: Float32Array },
  options: { rule: Of<"lars">; rate: number; decay: number; clock: Clock },
): void {
  const { rule, decay, clock } = options;
  const rate = options.rate * clock[CLOCK.rate];
  const factor = clock[CLOCK.factor];
  const [size, gradientSize] = [normOf(p), factor * normOf(g)];
  const trust = decay === 0
    ? 1
    : ratioOf(rule.trust * size, gradientSize === 0 ? 0 : gradientSize + decay * size + rule.eps);
  for (let i = 0; i < p.length; i++) {
    m[i] = rule.momentum * m[i] + trust * (factor * g[i] + decay * p[i]);
    p[i] -= rate * m[i];
  }
}

/** 1 where either is 0. */
function ratioOf(size: number, by: number): number {
  return size > 0 && by > 0 ? size / by : 1;
}

function normOf(values: ArrayLike<number>): number {
  let squares = 0;
  for (let i = 0; i < values.length; i++) squares += values[i] * values[i];
  return Math.sqrt(squares);
}
