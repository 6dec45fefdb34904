/** What a phase works with: a back end, the model on it, its trainer, and engines for answers. */

import { createReferenceTrainingBackend } from "../../backend/reference/training/mod.ts";
import type { TrainingBackend } from "../../backend/training.ts";
import { createWasmTrainingBackend } from "../../backend/wasm/training/mod.ts";
import { OptionError } from "../../errors.ts";
import type { MetadataValue, TensorSource } from "../../formats/tensor_source.ts";
import { loadModel } from "../../model/registry.ts";
import type { Model } from "../../model/types.ts";
import type { ReferencePolicy } from "../phases/grpo.ts";
import { RolloutEngine } from "../phases/rollout.ts";
import { correctionBiases, modelParameters } from "../model_parameters.ts";
import { Crew } from "../parallel/crew.ts";
import { CrewTrainer } from "../parallel/crew_trainer.ts";
import { type Grid, ranksOf } from "../parallel/grid.ts";
import type { TimelineEvent } from "../parallel/timeline.ts";
import type { MemberTrainer } from "../parallel/wire.ts";
import type { StepTrainer } from "../step_trainer.ts";
import { TapeBackend } from "../tape/mod.ts";
import { F16_LOSS_SCALE, type Objective, Trainer } from "../trainer.ts";
import type { PhaseRecipe } from "./phase_recipe.ts";
import type { TrainRecipe } from "./recipe.ts";

export interface Workbench {
  readonly backend: TrainingBackend;
  readonly model: Model;
  /** Holds the phase's state. */
  readonly trainer: Trainer;
  /** Makes the phase's steps: the trainer, or a crew. */
  readonly steps: StepTrainer;
  readonly engine: RolloutEngine;
  /** Only where the phase keeps near to a reference. */
  readonly reference: (ReferencePolicy & { readonly weights: WeightCopies }) | null;
  close(): void;
}

/** The weights of a second model, in the order of the trainer's. */
export interface WeightCopies {
  read(): Promise<Float32Array[]>;
  write(values: readonly Float32Array[]): void;
}

export interface CrewRecipe {
  readonly grid: Grid;
  /** The model's config.json. */
  readonly config: Readonly<Record<string, MetadataValue>>;
  /** Told after each step what members have done in it. */
  readonly onStep?: (events: readonly TimelineEvent[]) => void;
}

export interface WorkbenchOptions {
  readonly recipe: TrainRecipe;
  readonly phase: PhaseRecipe;
  /** The weights to begin with, in a model's checkpoint. */
  readonly source: TensorSource;
  readonly threads: number;
  /** Members that make the steps together; without them the trainer does. */
  readonly crew?: CrewRecipe;
  /** Tokens of the longest prompt. */
  readonly promptTokens: number;
}

export async function openWorkbench(options: WorkbenchOptions): Promise<Workbench> {
  const { recipe, phase, source, promptTokens } = options;
  const backend = await openBackend(options);
  let crew: Crew | null = null;
  try {
    const tape = new TapeBackend(backend);
    const { rows } = recipe.batch;
    const maxRows = Math.max(rows, recipe.evaluation.sequences, promptTokens);
    const load = () => loadModel({ source, backend: tape, maxRows, maxLogitRows: maxRows });
    const model = await load();
    const trainerOptions = {
      shape: { rows, logitRows: rows, sequences: recipe.batch.sequences },
      objective: objectiveOf(phase),
      rule: ruleOf(phase),
      parameters: { weightDecay: phase.update.weightDecay },
      maxNorm: phase.update.maxNorm,
      checkpoint: recipe.batch.checkpoint,
      ...(recipe.backend.storage === "f16" && F16_LOSS_SCALE),
      ...(phase.update.balance > 0 && {
        balance: { over: "sequence" as const, alpha: phase.update.balance },
      }),
      replayRouting: phase.kind === "grpo" && phase.replayRouting,
    };
    const trainer = new Trainer({ tape, model }, trainerOptions);
    crew = options.crew === undefined
      ? null
      : await startCrew(options.crew, { ...options, trainer: trainerOptions });
    const steps = crew && new CrewTrainer({ ...options.crew, crew, trainer, backend });
    const answerTokens = phase.kind === "cold_start" ? 0 : phase.sampling.maxTokens;
    const shape = {
      sequences: recipe.evaluation.sequences,
      tokens: promptTokens + Math.max(recipe.evaluation.maxTokens, answerTokens),
      maxRows,
    };
    const engine = new RolloutEngine({ tape, model }, shape);
    const reference = phase.kind === "grpo" && phase.kl !== 0
      ? referenceOf({ tape, model: await load() }, { trainer, shape })
      : null;
    return {
      ...{ backend, model, trainer, steps: steps ?? trainer, engine, reference },
      close() {
        crew?.close();
        backend.close();
      },
    };
  } catch (error) {
    crew?.close();
    backend.close();
    throw error;
  }
}

/** Members begin with any weights: those that count are delivered. */
async function startCrew(
  { grid, config }: CrewRecipe,
  { recipe, threads, trainer }: WorkbenchOptions & { trainer: MemberTrainer },
): Promise<Crew> {
  const { name, storage } = recipe.backend;
  if (name === "webgpu") {
    throw new OptionError(
      "cannot train together: backend.name is webgpu, must be wasm or reference",
    );
  }
  if (storage !== "f32") {
    throw new OptionError(`cannot train together: backend.storage is ${storage}, must be f32`);
  }
  const each = Math.max(1, Math.floor(threads / ranksOf(grid)));
  return await Crew.start({
    ...{ grid, trainer, model: { kind: "initial", config, seed: 0 } },
    backend: name === "wasm" ? { kind: "wasm", threads: each } : { kind: "reference" },
  });
}

async function openBackend({ recipe, threads }: WorkbenchOptions): Promise<TrainingBackend> {
  const { name, storage } = recipe.backend;
  if (name === "reference") return createReferenceTrainingBackend({ storage });
  if (storage === "bf16" || (name === "wasm" && storage !== "f32")) {
    const right = name === "wasm" ? "f32" : "f32 or f16";
    throw new OptionError(
      `cannot train: backend.storage is ${storage}, must be ${right} on the ${name} backend`,
    );
  }
  if (name === "wasm") return await createWasmTrainingBackend({ threads });
  const { createWebGpuTrainingBackend } = await import("../../backend/webgpu/training/mod.ts");
  return await createWebGpuTrainingBackend({ storage });
}

function objectiveOf(phase: PhaseRecipe): Objective {
  if (phase.kind !== "grpo") return { kind: "likelihood" };
  const { clipLow, clipHigh, kl, sampling } = phase;
  const { temperature } = sampling;
  return { kind: "policy", temperature, clipLow, clipHigh, klCoefficient: kl };
}

function ruleOf({ update }: PhaseRecipe) {
  const { optimizer, beta1, beta2 } = update;
  const eps = optimizer === "adamw" ? 1e-8 : 1e-6;
  return { kind: optimizer, beta1, beta2, eps };
}

function referenceOf(
  { tape, model }: { tape: TapeBackend; model: Model },
  { trainer, shape }: { trainer: Trainer; shape: RolloutEngine["shape"] },
): NonNullable<Workbench["reference"]> {
  const backend = tape.inner;
  const cache = model.createKvCache(1, "f32");
  const { inputs } = trainer.buffers;
  const parametersOf = (of: Trainer["parameters"]) => [
    ...of.trained,
    ...correctionBiases(of).map(({ bias }) => backend.parameterOf(bias)),
  ];
  const own = parametersOf(modelParameters({ tape, model }, { inputs, cache }));
  const weights: WeightCopies = {
    read: () => Promise.all(own.map((parameter) => backend.readParameter(parameter, "value"))),
    write(values) {
      own.forEach((parameter, i) => backend.writeParameter(parameter, "value", values[i]));
    },
  };
  return {
    engine: new RolloutEngine({ tape, model }, shape),
    weights,
    async follow() {
      const policy = parametersOf(trainer.parameters);
      weights.write(
        await Promise.all(policy.map((parameter) => backend.readParameter(parameter, "value"))),
      );
    },
  };
}
