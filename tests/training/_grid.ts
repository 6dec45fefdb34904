/** One model trained by one trainer, and by the members of a grid in one thread. */

import { createReferenceTrainingBackend } from "../../src/backend/reference/training/mod.ts";
import type { Parameter, Slot, TrainingBackend } from "../../src/backend/training.ts";
import type { TrainingSequence } from "../../src/training/batch.ts";
import { initialWeights } from "../../src/training/initial_weights.ts";
import { correctionBiases, type ModelParameters } from "../../src/training/model_parameters.ts";
import { connect, PortCommunicator } from "../../src/training/parallel/communicator.ts";
import { batchShareOf, type Grid, ranksOf } from "../../src/training/parallel/grid.ts";
import { openMember } from "../../src/training/parallel/open_member.ts";
import { Holdings } from "../../src/training/parallel/whole.ts";
import { TapeBackend } from "../../src/training/tape/mod.ts";
import { shareOf, Trainer, type TrainerOptions } from "../../src/training/trainer.ts";
import { randomSequences, tinyModel } from "./_tiny.ts";

export const OPTIONS: TrainerOptions = {
  shape: { rows: 16, logitRows: 16, sequences: 2 },
  objective: { kind: "likelihood" },
  rule: { kind: "adamw", beta1: 0.9, beta2: 0.95, eps: 1e-8 },
  parameters: { weightDecay: 0.01 },
  maxNorm: 0.5,
  balance: { over: "sequence", alpha: 0.01 },
};

export const RATES = { rate: 1e-2, biasRate: 1e-3 };

export type Steps = readonly TrainingSequence[][][];

/** Micro-batches of two sequences each; all tokens share the loss alike. */
export function batches(count: number, seed: number): TrainingSequence[][] {
  const lengths = Array.from({ length: 2 * count }, (_, i) => 5 + i % 4);
  const sequences = randomSequences(lengths, { seed });
  return Array.from({ length: count }, (_, i) => sequences.slice(2 * i, 2 * i + 2));
}

type Config = Readonly<Record<string, unknown>>;
type OpenBackend = () => TrainingBackend | Promise<TrainingBackend>;

/** Numbers by the name of a parameter's first tensor. */
export type Numbers = Map<string, Float32Array>;

export interface Trained {
  readonly parameters: readonly Parameter[];
  /** Of the last step, and of the first one, which no update precedes. */
  readonly gradients: Numbers;
  readonly firstGradients: Numbers;
  /** Correction biases included. */
  readonly values: Numbers;
}

function changedBy(backend: TrainingBackend, parameters: ModelParameters): Parameter[] {
  const biases = correctionBiases(parameters).map(({ bias }) => backend.parameterOf(bias));
  return [...parameters.trained, ...biases];
}

/** Steps of one trainer over all micro-batches. */
export async function alone(
  config: Config,
  { steps, open = createReferenceTrainingBackend, trainer: options = OPTIONS }: {
    steps: Steps;
    open?: OpenBackend;
    trainer?: TrainerOptions;
  },
): Promise<Trained> {
  const inner = await open();
  const tape = new TapeBackend(inner);
  const model = await tinyModel(config, { tape, maxRows: options.shape.rows });
  const trainer = new Trainer({ tape, model }, options);
  const parameters = changedBy(inner, trainer.parameters);
  const read = async (slot: Slot, of: readonly Parameter[]): Promise<Numbers> => {
    const all: Numbers = new Map();
    for (const parameter of of) {
      all.set(parameter.names[0], await inner.readParameter(parameter, slot));
    }
    return all;
  };
  const gradients: Numbers[] = [];
  for (const step of steps) {
    trainer.step(step, RATES);
    gradients.push(await read("gradient", trainer.parameters.trained));
  }
  const values = await read("value", parameters);
  inner.close();
  const [firstGradients] = gradients;
  return { parameters, gradients: gradients.at(-1)!, firstGradients, values };
}

/** The same by members, each with a backend of its own; `like` says what the whole parameters are. */
export async function together(
  config: Config,
  options: {
    grid: Grid;
    steps: Steps;
    like: Pick<Trained, "parameters" | "gradients">;
    open?: OpenBackend;
    trainer?: TrainerOptions;
  },
) {
  const { grid, steps, like, open = createReferenceTrainingBackend, trainer = OPTIONS } = options;
  const communicators = connect(ranksOf(grid))
    .map((ports, rank) => new PortCommunicator({ rank, ports }));
  const members = await Promise.all(communicators.map(async (communicator) => {
    const backend = await open();
    // deno-lint-ignore no-explicit-any -- a JSON document
    const source = initialWeights(config as any, { seed: 5, deviation: 0.15 });
    const opened = await openMember({ backend, source, communicator, grid, trainer });
    return { ...opened, backend, parameters: changedBy(backend, opened.member.parameters) };
  }));
  const holdings = new Holdings(grid, members.map(({ parameters }) => parameters));
  const read = async (slot: Slot) => {
    const all = new Map<number, Float32Array[]>();
    for (const [rank, { backend, member, parameters }] of members.entries()) {
      const own = slot === "value" ? parameters : member.parameters.trained;
      all.set(rank, await Promise.all(own.map((one) => backend.readParameter(one, slot))));
    }
    return all;
  };
  const gathered = (values: Map<number, Float32Array[]>, names: Iterable<string>): Numbers =>
    new Map(
      [...names].map((name) => {
        const whole = like.parameters.find(({ names }) => names[0] === name)!;
        return [name, holdings.gather(whole, values)];
      }),
    );
  const gradients: Numbers[] = [];
  for (const step of steps) {
    const whole = shareOf(step.flat());
    await Promise.all(members.map(({ member }, rank) => {
      const { index, count } = batchShareOf(grid, rank);
      const each = step.length / count;
      return member.step(step.slice(index * each, (index + 1) * each), { ...RATES, whole });
    }));
    gradients.push(gathered(await read("gradient"), like.gradients.keys()));
  }
  const values = await read("value");
  const trained: Trained = {
    parameters: like.parameters,
    gradients: gradients.at(-1)!,
    firstGradients: gradients[0],
    values: gathered(values, like.parameters.map(({ names }) => names[0])),
  };
  for (const communicator of communicators) communicator.close();
  const events = members.flatMap(({ timeline }) => timeline.take());
  const bytes = members.map(({ backend }) => backend.memory().weights);
  for (const { backend } of members) backend.close();
  return { trained, values, members, events, bytes };
}
