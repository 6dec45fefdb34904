/**
 * Supervised steps over packed sequences: cold start, the short pre-training in front of it, and the
 * training on accepted samples. Samples that share a sequence don't see each other.
 */

import { type PackedSequence, samplesOf } from "../data/packing/packer.ts";
import { nextTokens, type TrainingSequence } from "../batch.ts";
import { rateAt } from "../schedule.ts";
import type { StepTrainer } from "../step_trainer.ts";
import type { UpdateRecipe } from "../run/phase_recipe.ts";
import { microBatches } from "./micro_batches.ts";
import type { PackedStream } from "./packed_stream.ts";
import { expertLoad, type PhaseWork, type StepReport } from "./work.ts";

export interface SupervisedOptions {
  readonly trainer: StepTrainer;
  readonly stream: PackedStream;
  readonly update: UpdateRecipe;
  /** Updates that are planned, which the learning rate goes by. */
  readonly steps: number;
  /** Tokens of a step at least. */
  readonly tokens: number;
  /** Steps at the beginning in which every token counts. */
  readonly pretrainSteps: number;
  /** Steps of which one is read, since a back end may run behind the host. */
  readonly metricsEvery: number;
}

export class SupervisedWork implements PhaseWork {
  readonly #options: SupervisedOptions;
  /** Tokens of a packed sequence, once one has been read. */
  #length: number | undefined;

  constructor(options: SupervisedOptions) {
    this.#options = options;
  }

  /** Sequences of a step; all of a stream are equally long. */
  async #sequencesOfStep(): Promise<number> {
    // Asked for once: it may lie in another file than the step's, of which one is in memory at a time.
    this.#length ??= (await this.#options.stream.at(0)).ids.length;
    return Math.ceil(this.#options.tokens / this.#length);
  }

  async step(step: number): Promise<StepReport> {
    const { trainer, stream, update, steps, pretrainSteps, metricsEvery } = this.#options;
    const perStep = await this.#sequencesOfStep();
    const packed: PackedSequence[] = [];
    for (let i = 0; i < perStep; i++) packed.push(await stream.at(step * perStep + i));
    const sequences = trainingSequences(packed, { everyToken: step < pretrainSteps });
    const rate = rateAt({ ...update, peak: update.rate, steps }, step);
    await trainer.step(microBatches(sequences, trainer.shape), {
      rate,
      biasRate: update.biasRate,
    });
    const trained = sequences.reduce((sum, { inputs }) => sum + inputs.length, 0);
    const tokens = { trainedTokens: trained, sampledTokens: 0 };
    if ((step + 1) % metricsEvery !== 0) return { ...tokens, totals: null, metrics: null };
    const [totals, load] = await Promise.all([trainer.totals(), expertLoad(trainer)]);
    return {
      ...{ ...tokens, totals },
      metrics: {
        loss: totals.loss,
        grad_norm: totals.gradientNorm,
        learning_rate: rate,
        epoch: step * perStep / stream.length,
        ...load,
      },
    };
  }
}

/** The samples of sequences; all that count share the loss alike. */
export function trainingSequences(
  packed: readonly PackedSequence[],
  { everyToken }: { everyToken: boolean },
): TrainingSequence[] {
  const samples = packed.flatMap(samplesOf).filter(({ ids }) => ids.length > 1);
  const counts = samples.map(({ ids, targets }) => {
    if (!everyToken) return Float64Array.from(targets);
    const each = new Float64Array(ids.length).fill(1);
    each[0] = 0;
    return each;
  });
  const all = counts.reduce((sum, own) => sum + own.reduce((a, b) => a + b, 0), 0);
  return samples.map(({ ids }, i) =>
    nextTokens(ids, counts[i].map((count) => count / Math.max(1, all)))
  );
}
