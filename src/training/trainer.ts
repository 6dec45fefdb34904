/**
 * Trains a model: steps of micro-batches whose gradients add up, then an update. All of it is recorded once
 * and runs on the backend; the host writes tokens and the learning rate, and reads sums when it wants them.
 */

import type { Buffer, Plan } from "../backend/backend.ts";
import { CLOCK, TOTALS, type TrainingBackend } from "../backend/training.ts";
import type { LossScaling, UpdateRule } from "../backend/training_params.ts";
import type { Model } from "../model/types.ts";
import { type BatchShape, type PackedRows, pagesFor, type TrainingSequence } from "./batch.ts";
import { likelihood, policy, type PolicyOptions } from "./losses.ts";
import {
  correctionBiases,
  type ModelParameters,
  modelParameters,
  ruleOf,
  type RuleOptions,
} from "./model_parameters.ts";
import { type BalanceShare, StepBuffers } from "./step_buffers.ts";
import type { TapeBackend } from "./tape/mod.ts";
import type { ActivationUse } from "./tape/program.ts";
import type { GateTraining } from "./tape/rules/mixture.ts";

/** What a step makes smaller. */
export type Objective =
  | { readonly kind: "likelihood" }
  | {
    readonly kind: "policy";
    readonly temperature: number;
    readonly clipLow: number;
    readonly clipHigh: number;
    /** Factor on the k3 estimate of the divergence from the reference; 0 for none. */
    readonly klCoefficient: number;
  };

export interface TrainerOptions {
  readonly shape: BatchShape;
  readonly objective: Objective;
  readonly rule: UpdateRule;
  readonly parameters: RuleOptions;
  /** The norm that gradients are shortened to. */
  readonly maxNorm?: number;
  readonly checkpoint?: boolean;
  /** Factor on the loss; grows and shrinks by `scaling`, where that is given. 1 by default. */
  readonly lossScale?: number;
  readonly scaling?: LossScaling;
  /** The loss that keeps experts in balance. */
  readonly balance?: Pick<BalanceShare, "over" | "alpha">;
  /** Take the experts from the sequences instead of asking the gates. */
  readonly replayRouting?: boolean;
}

/** What a step has done, all sums over its micro-batches. */
export interface StepTotals {
  readonly loss: number;
  readonly balance: number;
  readonly tokens: number;
  /** Of tokens with a target: means of the k3 estimate, of the share that was clipped, and of ratios. */
  readonly kl: number;
  readonly clipFraction: number;
  readonly ratio: number;
  /** Of the last update. */
  readonly gradientNorm: number;
  readonly updates: number;
  readonly skipped: number;
  readonly lossScale: number;
}

export class Trainer {
  readonly model: Model;
  readonly parameters: ModelParameters;
  readonly buffers: StepBuffers;
  /** What a micro-batch's activations take. */
  readonly activations: ActivationUse;
  readonly #tape: TapeBackend;
  readonly #backend: TrainingBackend;
  readonly #options: TrainerOptions;
  readonly #begin: Plan;
  readonly #accumulate: Plan;
  readonly #apply: Plan;
  /** f32 [gates, most experts] and [1, 1]; null without gates. */
  readonly #counts: Buffer | null;
  readonly #biasRate: Buffer;

  constructor({ tape, model }: { tape: TapeBackend; model: Model }, options: TrainerOptions) {
    const { shape, lossScale = 1, rule } = options;
    this.model = model;
    this.#tape = tape;
    this.#backend = tape.inner;
    this.#options = options;
    const buffers = new StepBuffers({ tape, model }, { shape, lossScale });
    this.buffers = buffers;
    const cache = model.createKvCache(pagesFor(shape).all, "f32");
    const { inputs } = buffers;
    this.parameters = modelParameters({ tape, model }, { inputs, cache });
    const { trained, gates } = this.parameters;
    this.#backend.allocateGradients(trained, { moments: rule.kind === "lars" ? 1 : 2 });
    const width = Math.max(...gates.map(({ experts }) => experts));
    this.#counts = gates.length === 0
      ? null
      : this.#backend.createBuffer({ kind: "f32", rows: gates.length, width });
    this.#biasRate = this.#backend.createBuffer({ kind: "f32", rows: 1, width: 1 });
    const { plan, activations } = tape.recordStep({
      forward: (ops) =>
        model.forward(ops, {
          ...{ inputs, cache, rows: shape.rows, logitRowCount: shape.logitRows },
        }),
      logits: model.logits,
      loss: this.#loss(),
      checkpoint: options.checkpoint ?? false,
      gate: (index) => this.#gate(index),
    });
    this.#accumulate = plan;
    this.activations = activations;
    this.#begin = this.#recordBegin();
    this.#apply = this.#recordApply();
  }

  /** One step: the gradients of all micro-batches, then an update. */
  step(
    microBatches: readonly (readonly TrainingSequence[])[],
    options: { rate: number; biasRate?: number },
  ): void {
    this.begin();
    const share = shareOf(microBatches.flat());
    for (const sequences of microBatches) this.accumulate(sequences, share);
    this.apply(options);
  }

  /** Forgets the gradients and sums of the step before. */
  begin(): void {
    this.#backend.submit(this.#begin);
  }

  /**
   * Adds the gradients of one micro-batch. `whole` is what balance losses are shared among: the sequences
   * and tokens of the whole step, whoever computes them.
   */
  accumulate(
    sequences: readonly TrainingSequence[],
    whole: { sequences: number; tokens: number } = shareOf(sequences),
  ): PackedRows {
    const { balance } = this.#options;
    const packed = this.buffers.fill(sequences, balance && { ...balance, ...whole });
    this.#backend.submit(this.#accumulate);
    return packed;
  }

  /**
   * Changes the parameters by the gradients so far. `biasRate` is the step of correction biases (gamma of
   * DeepSeek-V3, section 2.1.2); 0 by default.
   */
  apply({ rate, biasRate = 0 }: { rate: number; biasRate?: number }): void {
    this.#backend.write(this.buffers.clock, Float32Array.of(rate), CLOCK.rate);
    this.#backend.write(this.#biasRate, Float32Array.of(biasRate));
    this.#backend.submit(this.#apply);
  }

  /** Waits for everything submitted; what the step so far has summed up. */
  async totals(): Promise<StepTotals> {
    const totals = await this.#backend.read(this.buffers.totals);
    const clock = await this.#backend.read(this.buffers.clock);
    const tokens = totals[TOTALS.tokens];
    const mean = (sum: number) => sum / Math.max(tokens, 1);
    return {
      loss: totals[TOTALS.loss],
      balance: totals[TOTALS.balance],
      tokens,
      kl: mean(totals[TOTALS.kl]),
      clipFraction: mean(totals[TOTALS.clipped]),
      ratio: mean(totals[TOTALS.ratio]),
      gradientNorm: clock[CLOCK.norm],
      updates: clock[CLOCK.updates],
      skipped: clock[CLOCK.skipped],
      lossScale: clock[CLOCK.lossScale],
    };
  }

  /** Waits for everything submitted; how many tokens of the step chose each expert, gate by gate. */
  async expertCounts(): Promise<Float32Array[]> {
    if (this.#counts === null) return [];
    const counts = await this.#backend.read(this.#counts);
    const { width } = this.#counts;
    return this.parameters.gates.map(({ experts }, gate) =>
      counts.slice(gate * width, gate * width + experts)
    );
  }

  /** Bytes of parameters' gradients and moments, and of masters. */
  get stateBytes(): number {
    return this.#backend.trainingBytes();
  }

  #loss() {
    const { objective } = this.#options;
    const { buffers } = this;
    if (objective.kind === "likelihood") return likelihood(buffers);
    const { kind: _, ...rest } = objective;
    const { oldLogProbs, advantages, referenceLogProbs } = buffers;
    const options: PolicyOptions = {
      ...{ ...rest, oldLogProbs, advantages },
      ...(objective.klCoefficient !== 0 && { referenceLogProbs }),
    };
    return policy(buffers, options);
  }

  #gate(index: number): GateTraining {
    const { balance, replayRouting } = this.#options;
    const { clock, totals, counted, balanceWeights, inputs, chosen } = this.buffers;
    const { positions } = inputs.batch;
    return {
      counts: { counted, counts: this.#counts!, row: index },
      ...(balance && {
        balance: {
          ...{ over: balance.over, rowWeights: balanceWeights, clock, totals },
          positions: this.#tape.located(positions),
        },
      }),
      ...(replayRouting && { chosen: chosen[index] }),
    };
  }

  #recordBegin(): Plan {
    return this.#backend.recordTraining((ops) => {
      ops.zeroGradients({ parameters: this.parameters.trained });
      ops.fill({ buffer: this.buffers.totals, value: 0 });
      if (this.#counts !== null) ops.fill({ buffer: this.#counts, value: 0 });
    });
  }

  #recordApply(): Plan {
    const { rule, maxNorm, scaling } = this.#options;
    const { clock } = this.buffers;
    const { trained } = this.parameters;
    const [beta1, beta2] = rule.kind === "lars" ? [0, 0] : [rule.beta1, rule.beta2];
    const parameters = trained.map((parameter) => ({
      parameter,
      ...ruleOf(parameter, this.#options.parameters),
    }));
    return this.#backend.recordTraining((ops) => {
      ops.prepareUpdate({
        ...{ parameters: trained, clock, beta1, beta2 },
        ...(maxNorm !== undefined && { maxNorm }),
        ...(scaling && { scaling }),
      });
      ops.update({ rule, parameters, clock });
      for (const { bias, gate } of correctionBiases(this.parameters)) {
        ops.updateCorrectionBias({
          ...{ bias, counts: this.#counts!, row: gate, rate: this.#biasRate },
        });
      }
    });
  }
}

/** What all sequences of a step share. */
export function shareOf(
  sequences: readonly TrainingSequence[],
): { sequences: number; tokens: number } {
  const tokens = sequences.reduce((sum, { inputs }) => sum + inputs.length, 0);
  return { sequences: sequences.length, tokens };
}
