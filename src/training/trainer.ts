/**
 * Trains a model: steps of micro-batches whose gradients add up, then an update. All of it is recorded once
 * and runs on the backend; the host writes tokens and the learning rate, and reads sums when it wants them.
 */

import type { Buffer, Plan } from "../backend/backend.ts";
import { CLOCK, TOTALS, type TrainingBackend } from "../backend/training.ts";
import type { LossScaling, UpdateRule } from "../backend/training_params.ts";
import type { Model } from "../model/types.ts";
import { type BatchShape, type PackedRows, pagesFor, type TrainingSequence } from "./batch.ts";
import { type ModelParameters, modelParameters, type RuleOptions } from "./model_parameters.ts";
import { gateTraining, lossOf, type Objective } from "./objective.ts";
import { type BalanceShare, StepBuffers } from "./step_buffers.ts";
import { countsBuffer, recordApply, recordBegin } from "./step_plans.ts";
import type { StepTotals, StepTrainer } from "./step_trainer.ts";
import type { TapeBackend } from "./tape/mod.ts";
import type { ActivationUse } from "./tape/program.ts";

export type { Objective };

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

/** The factor on the loss where storage is f16, as PyTorch's GradScaler begins and changes it. */
export const F16_LOSS_SCALE = Object.freeze({
  lossScale: 65536,
  scaling: { growth: 2, backoff: 0.5, interval: 2000 },
});

export class Trainer implements StepTrainer {
  readonly model: Model;
  readonly parameters: ModelParameters;
  readonly buffers: StepBuffers;
  /** What a micro-batch's activations take. */
  readonly activations: ActivationUse;
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
    this.#backend = tape.inner;
    this.#options = options;
    const buffers = new StepBuffers({ tape, model }, { shape, lossScale });
    this.buffers = buffers;
    const cache = model.createKvCache(pagesFor(shape).all, "f32");
    const { inputs } = buffers;
    this.parameters = modelParameters({ tape, model }, { inputs, cache });
    const { trained, gates } = this.parameters;
    this.#backend.allocateGradients(trained, { moments: rule.kind === "lars" ? 1 : 2 });
    this.#counts = countsBuffer(this.#backend, { gates });
    this.#biasRate = this.#backend.createBuffer({ kind: "f32", rows: 1, width: 1 });
    const { plan, activations } = tape.recordStep({
      forward: (ops) =>
        model.forward(ops, {
          ...{ inputs, cache, rows: shape.rows, logitRowCount: shape.logitRows },
        }),
      logits: model.logits,
      loss: lossOf(options.objective, buffers),
      checkpoint: options.checkpoint ?? false,
      gate: (index) => gateTraining(index, { ...options, tape, buffers, counts: this.#counts }),
    });
    this.#accumulate = plan;
    this.activations = activations;
    const { clock, totals } = buffers;
    const sums = { totals, counts: this.#counts };
    this.#begin = recordBegin(this.#backend, { ...sums, parameters: trained });
    const { maxNorm, scaling } = options;
    this.#apply = recordApply(this.#backend, {
      ...{ ...sums, clock, rule, biasRate: this.#biasRate, measured: trained },
      ...{ parameters: this.parameters, rules: options.parameters },
      ...(maxNorm !== undefined && { maxNorm }),
      ...(scaling && { scaling }),
    });
  }

  get shape(): BatchShape {
    return this.#options.shape;
  }

  /** As `begin`, `accumulate` and `apply`, in as many submissions as there are micro-batches. */
  step(
    microBatches: readonly (readonly TrainingSequence[])[],
    options: { rate: number; biasRate?: number },
  ): void {
    const share = shareOf(microBatches.flat());
    let plans = [this.#begin];
    for (const [i, sequences] of microBatches.entries()) {
      // The rows are written over those of the micro-batch before, which must be under way.
      if (i > 0) {
        this.#backend.submit(...plans);
        plans = [];
      }
      this.#fill(sequences, share);
      plans.push(this.#accumulate);
    }
    this.#writeRates(options);
    this.#backend.submit(...plans, this.#apply);
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
    const packed = this.#fill(sequences, whole);
    this.#backend.submit(this.#accumulate);
    return packed;
  }

  /**
   * Changes the parameters by the gradients so far. `biasRate` is the step of correction biases (gamma of
   * DeepSeek-V3, section 2.1.2); 0 by default.
   */
  apply(options: { rate: number; biasRate?: number }): void {
    this.#writeRates(options);
    this.#backend.submit(this.#apply);
  }

  async totals(): Promise<StepTotals> {
    const [totals, clock] = await Promise.all([
      this.#backend.read(this.buffers.totals),
      this.#backend.read(this.buffers.clock),
    ]);
    return stepTotals(totals, clock);
  }

  async expertCounts(): Promise<Float32Array[]> {
    if (this.#counts === null) return [];
    return countsByGate(await this.#backend.read(this.#counts), this.parameters);
  }

  /** Nothing: it is there. */
  collect(): Promise<void> {
    return Promise.resolve();
  }

  deliver(): Promise<void> {
    return Promise.resolve();
  }

  #fill(
    sequences: readonly TrainingSequence[],
    whole: { sequences: number; tokens: number },
  ): PackedRows {
    const { balance } = this.#options;
    return this.buffers.fill(sequences, balance && { ...balance, ...whole });
  }

  #writeRates({ rate, biasRate = 0 }: { rate: number; biasRate?: number }): void {
    this.#backend.write(this.buffers.clock, Float32Array.of(rate), CLOCK.rate);
    this.#backend.write(this.#biasRate, Float32Array.of(biasRate));
  }

  /** Bytes of parameters' gradients and moments, and of masters. */
  get stateBytes(): number {
    return this.#backend.trainingBytes();
  }
}

/** `TOTALS` and `CLOCK` by their names. */
export function stepTotals(totals: Float32Array, clock: Float32Array): StepTotals {
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

/** Counts [gates, most experts] as those of each gate. */
export function countsByGate(
  counts: Float32Array,
  { gates }: Pick<ModelParameters, "gates">,
): Float32Array[] {
  const width = counts.length / Math.max(1, gates.length);
  return gates.map(({ experts }, gate) => counts.slice(gate * width, gate * width + experts));
}

/** What all sequences of a step share. */
export function shareOf(
  sequences: readonly TrainingSequence[],
): { sequences: number; tokens: number } {
  const tokens = sequences.reduce((sum, { inputs }) => sum + inputs.length, 0);
  return { sequences: sequences.length, tokens };
}
