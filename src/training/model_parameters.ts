/** What of a model is trained, and how: parameters with their names, decay and share of the rate. */

import type { Weight } from "../backend/backend.ts";
import type { Parameter } from "../backend/training.ts";
import type { ForwardOptions, Model } from "../model/types.ts";
import type { TapeBackend } from "./tape/mod.ts";
import type { TracedGate } from "./tape/node.ts";

export interface ModelParameters {
  /** All that have a gradient, in the order in which the forward pass first reads them. */
  readonly trained: readonly Parameter[];
  /** The gates, first to last; their correction biases change without a gradient. */
  readonly gates: readonly TracedGate[];
}

/** Finds what a model's forward pass reads. */
export function modelParameters(
  { tape, model }: { tape: TapeBackend; model: Model },
  step: Omit<ForwardOptions, "rows" | "logitRowCount">,
): ModelParameters {
  const survey = tape.survey((ops) => model.forward(ops, { ...step, rows: 1, logitRowCount: 1 }));
  const { inner } = tape;
  const trained = new Set(survey.weights.map((weight) => inner.parameterOf(weight)));
  for (const experts of survey.experts) {
    const { gate, up, down } = inner.parametersOf(experts);
    trained.add(gate).add(up).add(down);
  }
  return { trained: [...trained], gates: survey.gates };
}

/** How a parameter differs from others in an update. */
export interface ParameterRule {
  /** Factor on the learning rate. */
  readonly rate: number;
  readonly decay: number;
}

export interface RuleOptions {
  /** Of matrices; vectors (norms, biases) don't decay. */
  readonly weightDecay: number;
  /** Factor on the rate of a tensor of this name, for layers that learn at rates of their own; 1 by default. */
  readonly rateOf?: (name: string) => number;
  /** Decay of a tensor of this name, in the place of `weightDecay`. */
  readonly decayOf?: (name: string) => number | undefined;
}

/** The rule of a parameter; its tensors share that of the first. */
export function ruleOf(parameter: Parameter, options: RuleOptions): ParameterRule {
  const { weightDecay, rateOf = () => 1, decayOf = () => undefined } = options;
  const [name] = parameter.names;
  const decay = decayOf(name) ?? (parameter.rows > 1 ? weightDecay : 0);
  return { rate: rateOf(name), decay };
}

/** The correction biases of gates that have one, with the gate's place among all. */
export function correctionBiases(
  { gates }: ModelParameters,
): { bias: Weight; gate: number; experts: number }[] {
  return gates.flatMap(({ correctionBias, experts }, gate) =>
    correctionBias === null ? [] : [{ bias: correctionBias, gate, experts }]
  );
}
