/**
 * A crew in the place of a trainer. The trainer keeps its back end with the whole model, on which answers
 * are sampled and from which state is written; what the crew has learnt is brought there when it is asked
 * for, so that state has one form, whoever made the steps.
 */

import type { Parameter, Slot, TrainingBackend } from "../../backend/training.ts";
import type { BatchShape, TrainingSequence } from "../batch.ts";
import { correctionBiases } from "../model_parameters.ts";
import type { StepTotals, StepTrainer } from "../step_trainer.ts";
import { countsByGate, stepTotals, type Trainer } from "../trainer.ts";
import type { Crew, CrewSums } from "./crew.ts";
import type { TimelineEvent } from "./timeline.ts";

export interface CrewTrainerOptions {
  readonly crew: Crew;
  /** Holds the state; makes no steps. */
  readonly trainer: Trainer;
  readonly backend: TrainingBackend;
  /** Told after each step what members have done in it. */
  readonly onStep?: (events: readonly TimelineEvent[]) => void;
}

export class CrewTrainer implements StepTrainer {
  readonly #options: CrewTrainerOptions;
  /** Slots that are the same here and there. */
  readonly #same = new Set<Slot>();
  #sums: CrewSums | null = null;

  constructor(options: CrewTrainerOptions) {
    this.#options = options;
  }

  get shape(): BatchShape {
    return this.#options.trainer.shape;
  }

  async step(
    microBatches: readonly (readonly TrainingSequence[])[],
    options: { rate: number; biasRate?: number },
  ): Promise<void> {
    const { crew, onStep } = this.#options;
    this.#same.clear();
    this.#sums = await crew.step(microBatches, options);
    onStep?.(await crew.timeline());
  }

  totals(): Promise<StepTotals> {
    const { totals, clock } = this.#made();
    return Promise.resolve(stepTotals(totals, clock));
  }

  expertCounts(): Promise<Float32Array[]> {
    return Promise.resolve(countsByGate(this.#made().counts, this.#options.trainer.parameters));
  }

  async collect(slots: readonly Slot[]): Promise<void> {
    const { crew, backend, trainer } = this.#options;
    for (const slot of slots) {
      if (this.#same.has(slot)) continue;
      const parameters = this.#parameters(slot);
      const values = await crew.read(slot, parameters);
      parameters.forEach((parameter, i) => backend.writeParameter(parameter, slot, values[i]));
      this.#same.add(slot);
    }
    if (this.#sums !== null) backend.write(trainer.buffers.clock, this.#sums.clock);
  }

  async deliver(slots: readonly Slot[]): Promise<void> {
    const { crew, backend, trainer } = this.#options;
    for (const slot of slots) {
      const wholes = [];
      for (const parameter of this.#parameters(slot)) {
        wholes.push({ parameter, values: await backend.readParameter(parameter, slot) });
      }
      await crew.write(slot, wholes);
      this.#same.add(slot);
    }
    await crew.setClock(await backend.read(trainer.buffers.clock));
  }

  #parameters(slot: Slot): Parameter[] {
    const { trainer: { parameters }, backend } = this.#options;
    if (slot !== "value") return [...parameters.trained];
    const biases = correctionBiases(parameters).map(({ bias }) => backend.parameterOf(bias));
    return [...parameters.trained, ...biases];
  }

  #made(): CrewSums {
    if (this.#sums === null) throw new Error("a crew was asked for its sums before a step");
    return this.#sums;
  }
}
