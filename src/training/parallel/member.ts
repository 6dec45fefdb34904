/**
 * One of those who train a model together. It computes its part of each step, and exchanges activations
 * with the stages beside it and gradients with those that hold the same parameters.
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
import type { HostWork } from "../tape/value.ts";
import type { RecordedStage } from "../tape/stage.ts";
import type { TapeBackend } from "../tape/mod.ts";
import { shareOf, type TrainerOptions } from "../trainer.ts";
import { type Communicator, Subgroup } from "./communicator.ts";
import { GradientExchange } from "./gradient_exchange.ts";
import { extentsOf, type Grid, type GridPlace, groupOf, placeOf } from "./grid.ts";
import { schedule1F1B, slotsOf } from "./pipeline.ts";
import type { Slices } from "./slices.ts";
import type { Timeline } from "./timeline.ts";

export interface MemberOptions {
  /** With the member's part of the model on it; see `openMember`. */
  readonly tape: TapeBackend;
  readonly model: Model;
  readonly slices: Slices;
  readonly communicator: Communicator;
  readonly timeline: Timeline;
  readonly grid: Grid;
  /** As for a trainer of its own; the shape is that of a micro-batch. */
  readonly trainer: TrainerOptions;
}

/** A micro-batch between its passes. */
interface Slot {
  readonly buffers: StepBuffers;
  readonly stage: RecordedStage;
}

/** What a step has added up, of all who have a share of the batch: this stage's `TOTALS`, and the clock. */
export interface MemberSums {
  readonly totals: Float32Array;
  readonly clock: Float32Array;
  /** [gates, most experts]; 0 for gates of other stages; empty without gates. */
  readonly counts: Float32Array;
}

export class Member {
  readonly place: GridPlace;
  readonly parameters: ModelParameters;
  readonly #backend: TrainingBackend;
  readonly #options: MemberOptions;
  readonly #slots: Slot[] = [];
  readonly #cache: ModelCache;
  readonly #shared: StepBuffers;
  readonly #pipeline: Communicator;
  readonly #exchange: GradientExchange;
  readonly #counts: Buffer | null;
  readonly #biasRate: Buffer;
  readonly #begin: Plan;
  readonly #prepare: Plan;
  readonly #update: Plan;

  constructor(options: MemberOptions) {
    const { tape, model, slices, communicator, grid, trainer } = options;
    checkTrainer(trainer, grid);
    this.#options = options;
    this.#backend = tape.inner;
    this.place = placeOf(grid, communicator.rank);
    this.#pipeline = new Subgroup(communicator, groupOf(grid, this.place, ["stage"]));
    const { shape, lossScale = 1, rule } = trainer;
    this.#cache = model.createKvCache(pagesFor(shape).all, "f32");
    this.#shared = new StepBuffers({ tape, model }, { shape, lossScale });
    const { parameters, experts } = this.#survey();
    this.parameters = parameters;
    const { trained, gates } = parameters;
    const backend = this.#backend;
    backend.allocateGradients(trained, { moments: rule.kind === "lars" ? 1 : 2 });
    this.#counts = countsBuffer(backend, { gates });
    this.#biasRate = backend.createBuffer({ kind: "f32", rows: 1, width: 1 });
    this.#exchange = new GradientExchange({
      ...{ backend, communicator, grid, slices, parameters: trained, experts },
      tied: this.#tied(trained),
    });
    const { totals, clock } = this.#shared;
    const sums = { totals, counts: this.#counts };
    this.#begin = recordBegin(backend, { ...sums, parameters: trained });
    // The norm that counts is that of all members, so nothing is shortened before that is known.
    this.#prepare = recordPrepare(backend, { measured: this.#exchange.measured, clock, rule });
    this.#update = recordUpdate(backend, {
      ...{ ...sums, parameters, clock, biasRate: this.#biasRate, rule },
      rules: trainer.parameters,
    });
  }

  /**
   * The member's part of a step. `microBatches` are those of its share of the batch, as many for each,
   * `whole` the sequences and tokens of all shares together, by which balance losses are shared.
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
    this.#backend.submit(this.#begin);
    await this.#runPipeline(microBatches, whole);
    const { totals } = this.#shared;
    await this.#options.timeline.measure(
      "exchange",
      "gradients",
      () => this.#exchange.gradients(this.#counts ? [totals, this.#counts] : [totals]),
    );
    await this.#apply({ rate, biasRate });
  }

  async sums(): Promise<MemberSums> {
    const { totals, clock } = this.#shared;
    return {
      totals: await this.#backend.read(totals),
      clock: await this.#backend.read(clock),
      counts: this.#counts ? await this.#backend.read(this.#counts) : new Float32Array(0),
    };
  }

  /** Goes on from another's clock. */
  set clock(values: Float32Array) {
    this.#backend.write(this.#shared.clock, values);
  }

  async #runPipeline(
    microBatches: readonly (readonly TrainingSequence[])[],
    whole: { sequences: number; tokens: number },
  ): Promise<void> {
    const { grid, trainer: { balance } } = this.#options;
    const place = { stage: this.place.stage, stages: grid.stages };
    const used = slotsOf(place, microBatches.length);
    while (this.#slots.length < used) this.#slots.push(this.#slot());
    for (const { pass, microBatch } of schedule1F1B(place, microBatches.length)) {
      const { buffers, stage } = this.#slots[microBatch % used];
      const name = `micro-batch ${microBatch}`;
      const tag = `${pass} ${microBatch}`;
      if (pass === "forward") {
        const values = await this.#receive(-1, tag);
        buffers.fill(microBatches[microBatch], balance && { ...balance, ...whole });
        if (values !== null) this.#backend.write(stage.received!, values);
        await this.#run(stage.forward, { pass, name });
        await this.#send(1, tag, stage.sent);
      } else {
        const values = await this.#receive(1, tag);
        if (values !== null) this.#backend.write(stage.answered!, values);
        await this.#run(stage.backward, { pass, name });
        await this.#send(-1, tag, stage.returned);
      }
    }
  }

  /** Plans count as this pass; what the host does between them measures itself. */
  async #run(
    parts: readonly (Plan | HostWork)[],
    { pass, name }: { pass: "forward" | "backward"; name: string },
  ): Promise<void> {
    for (const part of parts) {
      if (typeof part === "function") await part();
      else await this.#options.timeline.measure(pass, name, () => this.#backend.submit(part));
    }
  }

  /** What the stage beside has sent; null where there is no stage. */
  async #receive(side: -1 | 1, tag: string): Promise<Float32Array | null> {
    const from = this.#pipeline.rank + side;
    if (from < 0 || from >= this.#pipeline.size) return null;
    const { timeline } = this.#options;
    return await timeline.measure("wait", tag, () => this.#pipeline.receive(from, tag));
  }

  async #send(side: -1 | 1, tag: string, buffer: Buffer | undefined): Promise<void> {
    if (buffer === undefined) return;
    await this.#options.timeline.measure("exchange", tag, async () => {
      const values = await this.#backend.read(buffer) as Float32Array<ArrayBuffer>;
      this.#pipeline.send(this.#pipeline.rank + side, tag, values);
    });
  }

  /** Updates by the norm of all members' gradients. */
  async #apply({ rate, biasRate }: { rate: number; biasRate: number }): Promise<void> {
    const { timeline, trainer: { maxNorm = Infinity } } = this.#options;
    const backend = this.#backend;
    const { clock: at } = this.#shared;
    const before = await backend.read(at);
    backend.submit(this.#prepare);
    const clock = await backend.read(at);
    const norm = await timeline.measure(
      "exchange",
      "norm",
      () => this.#exchange.norm(clock[CLOCK.norm]),
    );
    const applies = Number.isFinite(norm);
    const next = new Float32Array(CLOCK_ROWS);
    next.set(applies ? clock : before);
    next[CLOCK.rate] = rate;
    next[CLOCK.norm] = norm;
    next[CLOCK.applies] = applies ? 1 : 0;
    next[CLOCK.factor] = Math.min(1, maxNorm / (norm + 1e-6)) / before[CLOCK.lossScale];
    if (!applies) next[CLOCK.skipped] = before[CLOCK.skipped] + 1;
    backend.write(at, next);
    backend.write(this.#biasRate, Float32Array.of(biasRate));
    await timeline.measure("update", "", () => backend.submit(this.#update));
  }

  #slot(): Slot {
    const { tape, model, grid, trainer } = this.#options;
    const { shape, lossScale = 1, objective, checkpoint = false } = trainer;
    const buffers = new StepBuffers({ tape, model }, { shape, lossScale, shared: this.#shared });
    const cache = this.#cache;
    const stage = tape.recordStage({
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
    return { buffers, stage };
  }

  /** The stage's own parameters, and all gates, so that their counts have the same places everywhere. */
  #survey(): { parameters: ModelParameters; experts: ReadonlySet<Parameter> } {
    const { tape, model, grid } = this.#options;
    const { inputs } = this.#shared;
    const step = { inputs, cache: this.#cache, rows: 1, logitRowCount: 1 };
    const forward = (ops: Parameters<typeof model.forward>[0]) => model.forward(ops, step);
    const own = tape.surveyStage(forward, { index: this.place.stage, count: grid.stages });
    const { inner } = tape;
    const weights = new Set(own.weights.map((weight) => inner.parameterOf(weight)));
    const experts = new Set(
      own.experts.map((layer) => inner.parametersOf(layer))
        .flatMap(({ gate, up, down }) => [gate, up, down]),
    );
    const biases = new Set(own.gates.map(({ correctionBias }) => correctionBias));
    const gates = tape.survey(forward).gates.map((gate) =>
      biases.has(gate.correctionBias) ? gate : { ...gate, correctionBias: null }
    );
    return { parameters: { trained: [...weights, ...experts], gates }, experts };
  }

  #tied(trained: readonly Parameter[]): Parameter | null {
    const { model, grid } = this.#options;
    const { stage } = this.place;
    const isEnd = stage === 0 || stage === grid.stages - 1;
    if (!model.config.tiedEmbeddings || grid.stages === 1 || !isEnd) return null;
    const name = tensorName("tokenEmbedding", { format: "safetensors" });
    return trained.find(({ names }) => names[0] === name) ?? null;
  }
}

function checkTrainer({ scaling, rule }: TrainerOptions, grid: Grid): void {
  if (scaling !== undefined) {
    throw new OptionError(
      "cannot train together with a factor on the loss that changes: scaling must be left out",
    );
  }
  if (rule.kind !== "adamw" && extentsOf(grid).tensor > 1) {
    throw new OptionError(
      `cannot train in tensor parts by ${rule.kind}, which goes by the norm of whole tensors: ` +
        "the rule must be adamw",
    );
  }
}
