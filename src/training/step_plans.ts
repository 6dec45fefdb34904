/** The plans before and after a step's micro-batches, whoever computes those. */

import type { Buffer, Plan } from "../backend/backend.ts";
import type { Parameter, TrainingBackend, TrainingOps } from "../backend/training.ts";
import type { LossScaling, UpdateRule } from "../backend/training_params.ts";
import {
  correctionBiases,
  type ModelParameters,
  ruleOf,
  type RuleOptions,
} from "./model_parameters.ts";

/** What a step adds up, besides gradients. */
export interface StepSums {
  readonly totals: Buffer;
  /** f32 [gates, most experts]; null without gates. */
  readonly counts: Buffer | null;
}

/** Room for the counts of a model's gates. */
export function countsBuffer(
  backend: TrainingBackend,
  { gates }: Pick<ModelParameters, "gates">,
): Buffer | null {
  if (gates.length === 0) return null;
  const width = Math.max(...gates.map(({ experts }) => experts));
  return backend.createBuffer({ kind: "f32", rows: gates.length, width });
}

/** Forgets the gradients and sums of the step before. */
export function recordBegin(
  backend: TrainingBackend,
  { parameters, totals, counts }: StepSums & { parameters: readonly Parameter[] },
): Plan {
  return backend.recordTraining((ops) => {
    ops.zeroGradients({ parameters });
    ops.fill({ buffer: totals, value: 0 });
    if (counts !== null) ops.fill({ buffer: counts, value: 0 });
  });
}

export interface ApplyOptions extends StepSums {
  readonly parameters: ModelParameters;
  readonly clock: Buffer;
  /** f32 [1, 1]: the step of correction biases. */
  readonly biasRate: Buffer;
  readonly rule: UpdateRule;
  readonly rules: RuleOptions;
}

export interface PrepareOptions {
  /** The parameters whose gradients decide. */
  readonly measured: readonly Parameter[];
  readonly clock: Buffer;
  readonly rule: UpdateRule;
  readonly maxNorm?: number;
  readonly scaling?: LossScaling;
}

/** Reads the gradients of `measured` and decides what becomes of them; see `prepareUpdate`. */
export function recordPrepare(backend: TrainingBackend, options: PrepareOptions): Plan {
  return backend.recordTraining((ops) => prepare(ops, options));
}

/** Changes the parameters by what has been prepared, and correction biases by the counts. */
export function recordUpdate(backend: TrainingBackend, options: ApplyOptions): Plan {
  return backend.recordTraining((ops) => update(ops, options));
}

/** Both, one behind the other. */
export function recordApply(
  backend: TrainingBackend,
  options: ApplyOptions & PrepareOptions,
): Plan {
  return backend.recordTraining((ops) => {
    prepare(ops, options);
    update(ops, options);
  });
}

function prepare(ops: TrainingOps, options: PrepareOptions): void {
  const { clock, rule, maxNorm, scaling, measured: parameters } = options;
  const [beta1, beta2] = rule.kind === "lars" ? [0, 0] : [rule.beta1, rule.beta2];
  ops.prepareUpdate({
    ...{ parameters, clock, beta1, beta2 },
    ...(maxNorm !== undefined && { maxNorm }),
    ...(scaling && { scaling }),
  });
}

function update(ops: TrainingOps, options: ApplyOptions): void {
  const { parameters: model, clock, counts, biasRate, rule, rules } = options;
  const parameters = model.trained.map((parameter) => ({
    parameter,
    ...ruleOf(parameter, rules),
  }));
  ops.update({ rule, parameters, clock });
  for (const { bias, gate } of correctionBiases(model)) {
    ops.updateCorrectionBias({ bias, counts: counts!, row: gate, rate: biasRate });
  }
}
