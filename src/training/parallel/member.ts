/**
 * One of those who train a model together: a stage of a replica. It computes its part of each step, and
 * exchanges activations with the stages beside it and gradients with its twins in other replicas.
 */

import type { Buffer, ModelCache, Plan } from "../../backend/backend.ts";
import { CLOCK, CLOCK_ROWS, type Parameter, type TrainingBackend } from "../../backend/training.ts";
import { OptionError } from "../../errors.ts";
import { tensorName } from "../../model/names.ts";
import type { Model } from "../../model/types.ts";
import { pagesFor, type TrainingSequence } from "../batch.ts";
import type { ModelParameters } from "../model_parameters.ts";
import { gateTraining, lossOf } from "../objective.ts";
import { StepBuffers } from "../step_buffers.ts";
import { countsBuffer, recordBegin, recordPrepare, recordUpdate } from "../step_plans.ts";
import type { RecordedStage } from "../tape/stage.ts";
import type { TapeBackend } from "../tape/mod.ts";
import { shareOf, type TrainerOptions } from "../trainer.ts";
import { allReduce, type Communicator, Subgroup } from "./communicator.ts";
import { type Grid, type GridPlace, pipelineOf, placeOf, twinsOf } from "./grid.ts";
import { schedule1F1B, slotsOf } from "./pipeline.ts";
import { Timeline } from "./timeline.ts";

export interface MemberOptions {
  readonly tape: TapeBackend;
  readonly model: Model;
  readonly communicator: Communicator;
  readonly grid: Grid;
  /** As for a trainer of its own; the shape is that of a micro-batch. */
  readonly trainer: TrainerOptions;
  /** Micro-batches of a step for each replica. */
  readonly microBatches: number;
}

/** A micro-batch between its passes. */
interface Slot {
  readonly buffers: StepBuffers;
  readonly stage: RecordedStage;
}

export class Member {
  readonly place: GridPlace;
  readonly timeline: Timeline;
  readonly parameters: ModelParameters;
  readonly #backend: TrainingBackend;
  readonly #options: MemberOptions;
  readonly #slots: readonly Slot[];
  readonly #pipeline: Communicator;
  readonly #twins: Communicator;
  readonly #clock: Buffer;
  readonly #totals: Buffer;
  readonly #counts: Buffer | null;
  readonly #biasRate: Buffer;
  readonly #begin: Plan;
  readonly #prepare: Plan;
  readonly #update: Plan;
  /** The embedding, where the first and the last stage both hold it. */
  readonly #tied: Parameter | null;

  constructor(options: MemberOptions) {
    const { tape, model, communicator, grid, trainer, microBatches } = options;
    if (trainer.scaling !== undefined) {
      throw new OptionError(
        "cannot train together with a factor on the loss that changes: scaling must be left out",
      );
    }
    this.#options = options;
    this.#backend = tape.inner;
    this.place = placeOf(grid, communicator.rank);
    this.timeline = new Timeline(communicator.rank);
    this.#pipeline = new Subgroup(communicator, pipelineOf(grid, this.place.replica));
    this.#twins = new Subgroup(communicator, twinsOf(grid, this.place.stage));
    const { shape, lossScale = 1, rule } = trainer;
    const cache = model.createKvCache(pagesFor(shape).all, "f32");
    const shared = new StepBuffers({ tape, model }, { shape, lossScale });
    this.#clock = shared.clock;
    this.#totals = shared.totals;
    this.parameters = this.#survey(shared, cache);
    const { trained, gates } = this.parameters;
    this.#backend.allocateGradients(trained, { moments: rule.kind === "lars" ? 1 : 2 });
    this.#counts = countsBuffer(this.#backend, { gates });
    this.#biasRate = this.#backend.createBuffer({ kind: "f32", rows: 1, width: 1 });
    const stages = { stage: this.place.stage, stages: grid.stages };
    this.#slots = Array.from({ length: slotsOf(stages, microBatches) }, () => {
      const buffers = new StepBuffers({ tape, model }, { shape, lossScale, shared });
      return { buffers, stage: this.#record(buffers, cache) };
    });
    const name = tensorName("tokenEmbedding", { format: "safetensors" });
    const embedding = trained.find(({ names }) => names[0] === name) ?? null;
    const isEnd = this.place.stage === 0 || this.place.stage === grid.stages - 1;
    const isTied = model.config.tiedEmbeddings && grid.stages > 1 && isEnd;
    this.#tied = isTied ? embedding : null;
    const sums = { totals: this.#totals, counts: this.#counts };
    this.#begin = recordBegin(this.#backend, { ...sums, parameters: trained });
    // Both ends have the gradient of a tied embedding; the first one's counts.
    const measured = trained.filter((parameter) =>
      parameter !== this.#tied || this.place.stage === 0
    );
    // The norm that counts is that of all stages, so nothing is shortened before that is known.
    this.#prepare = recordPrepare(this.#backend, { measured, clock: this.#clock, rule });
    this.#update = recordUpdate(this.#backend, {
      ...{ ...sums, parameters: this.parameters, clock: this.#clock, biasRate: this.#biasRate },
      ...{ rule, rules: trainer.parameters },
    });
  }

  /**
   * The member's part of a step. `microBatches` are those of its replica, `whole` the sequences and tokens
   * of all replicas together, by which balance losses are shared.
   */
  async step(
    microBatches: readonly (readonly TrainingSequence[])[],
    options: {
      rate: number;
      biasRate?: number;
      whole?: { sequences: number; tokens: number };
    },
  ): Promise<void> {
    const { rate, biasRate = 0, whole = shareOf(microBatches.flat()) } = options;
    const { microBatches: planned } = this.#options;
    if (microBatches.length !== planned) {
      throw new RangeError(
        `cannot run a step: its micro-batches are ${microBatches.length}, must be ${planned}`,
      );
    }
    this.#backend.submit(this.#begin);
    await this.#runPipeline(microBatches, whole);
    await this.timeline.measure("exchange", "gradients", () => this.#exchange());
    await this.#apply({ rate, biasRate });
  }

  /** What the step has added up: this stage's, of all replicas. */
  async totals(): Promise<Float32Array> {
    return await this.#backend.read(this.#totals);
  }

  async #runPipeline(
    microBatches: readonly (readonly TrainingSequence[])[],
    whole: { sequences: number; tokens: number },
  ): Promise<void> {
    const stages = { stage: this.place.stage, stages: this.#options.grid.stages };
    const { timeline } = this;
    for (const { pass, microBatch } of schedule1F1B(stages, microBatches.length)) {
      const slot = this.#slots[microBatch % this.#slots.length];
      const name = `micro-batch ${microBatch}`;
      if (pass === "forward") {
        const values = await this.#receive(-1, `forward ${microBatch}`);
        await timeline.measure("forward", name, async () => {
          const { balance } = this.#options.trainer;
          slot.buffers.fill(microBatches[microBatch], balance && { ...balance, ...whole });
          if (values !== null) this.#backend.write(slot.stage.received!, values);
          this.#backend.submit(slot.stage.forward);
          await this.#send(1, `forward ${microBatch}`, slot.stage.sent);
        });
      } else {
        const values = await this.#receive(1, `backward ${microBatch}`);
        await timeline.measure("backward", name, async () => {
          if (values !== null) this.#backend.write(slot.stage.answered!, values);
          this.#backend.submit(slot.stage.backward);
          await this.#send(-1, `backward ${microBatch}`, slot.stage.returned);
        });
      }
    }
  }

  /** What the stage beside has sent; null where there is no stage. */
  async #receive(side: -1 | 1, tag: string): Promise<Float32Array | null> {
    const from = this.#pipeline.rank + side;
    if (from < 0 || from >= this.#pipeline.size) return null;
    return await this.timeline.measure("wait", tag, () => this.#pipeline.receive(from, tag));
  }

  async #send(side: -1 | 1, tag: string, buffer: Buffer | undefined): Promise<void> {
    if (buffer === undefined) return;
    const values = await this.#backend.read(buffer) as Float32Array<ArrayBuffer>;
    this.#pipeline.send(this.#pipeline.rank + side, tag, values);
  }

  /** Adds up gradients and sums: of twins, and of a tied embedding's two ends. */
  async #exchange(): Promise<void> {
    if (this.#twins.size > 1) {
      await this.#reduce(this.#twins, this.parameters.trained);
      for (const buffer of this.#counts ? [this.#totals, this.#counts] : [this.#totals]) {
        const sums = await this.#backend.read(buffer);
        await allReduce(this.#twins, "sums", sums);
        this.#backend.write(buffer, sums);
      }
    }
    if (this.#tied === null) return;
    const ends = new Subgroup(this.#pipeline, [0, this.#pipeline.size - 1]);
    await this.#reduce(ends, [this.#tied]);
  }

  async #reduce(group: Communicator, parameters: readonly Parameter[]): Promise<void> {
    const length = parameters.reduce((sum, parameter) => sum + lengthOf(parameter), 0);
    const all = new Float32Array(length);
    let at = 0;
    for (const parameter of parameters) {
      all.set(await this.#backend.readParameter(parameter, "gradient"), at);
      at += lengthOf(parameter);
    }
    await allReduce(group, "gradients", all);
    at = 0;
    for (const parameter of parameters) {
      const end = at + lengthOf(parameter);
      this.#backend.writeParameter(parameter, "gradient", all.subarray(at, end));
      at = end;
    }
  }

  /** Updates by the norm of all stages' gradients. */
  async #apply({ rate, biasRate }: { rate: number; biasRate: number }): Promise<void> {
    const before = await this.#backend.read(this.#clock);
    this.#backend.submit(this.#prepare);
    const clock = await this.#backend.read(this.#clock);
    const squares = Float32Array.of(clock[CLOCK.norm] ** 2);
    await this.timeline.measure(
      "exchange",
      "norm",
      () => allReduce(this.#pipeline, "norm", squares),
    );
    const norm = Math.sqrt(squares[0]);
    const applies = Number.isFinite(norm);
    const { maxNorm = Infinity } = this.#options.trainer;
    const next = new Float32Array(CLOCK_ROWS);
    next.set(applies ? clock : before);
    next[CLOCK.rate] = rate;
    next[CLOCK.norm] = norm;
    next[CLOCK.applies] = applies ? 1 : 0;
    next[CLOCK.factor] = Math.min(1, maxNorm / (norm + 1e-6)) / before[CLOCK.lossScale];
    if (!applies) next[CLOCK.skipped] = before[CLOCK.skipped] + 1;
    this.#backend.write(this.#clock, next);
    this.#backend.write(this.#biasRate, Float32Array.of(biasRate));
    await this.timeline.measure("update", "", () => {
      this.#backend.submit(this.#update);
    });
  }

  #record(buffers: StepBuffers, cache: ModelCache): RecordedStage {
    const { tape, model, grid, trainer } = this.#options;
    const { shape, objective, checkpoint = false } = trainer;
    return tape.recordStage({
      forward: (ops) =>
        model.forward(ops, {
          ...{ inputs: buffers.inputs, cache, rows: shape.rows, logitRowCount: shape.logitRows },
        }),
      logits: model.logits,
      loss: lossOf(objective, buffers),
      gate: (index) => gateTraining(index, { ...trainer, tape, buffers, counts: this.#counts }),
      checkpoint,
      place: { index: this.place.stage, count: grid.stages },
    });
  }

  /** The stage's own parameters, and all gates, so that their counts have the same places everywhere. */
  #survey({ inputs }: StepBuffers, cache: ModelCache): ModelParameters {
    const { tape, model, grid } = this.#options;
    const step = { inputs, cache, rows: 1, logitRowCount: 1 };
    const forward = (ops: Parameters<typeof model.forward>[0]) => model.forward(ops, step);
    const own = tape.surveyStage(forward, { index: this.place.stage, count: grid.stages });
    const { inner } = tape;
    const trained = new Set(own.weights.map((weight) => inner.parameterOf(weight)));
    for (const experts of own.experts) {
      const { gate, up, down } = inner.parametersOf(experts);
      trained.add(gate).add(up).add(down);
    }
    const biases = new Set(own.gates.map(({ correctionBias }) => correctionBias));
    const gates = tape.survey(forward).gates.map((gate) =>
      biases.has(gate.correctionBias) ? gate : { ...gate, correctionBias: null }
    );
    return { trained: [...trained], gates };
  }
}

function lengthOf({ names, rows, cols }: Parameter): number {
  return names.length * rows * cols;
}
