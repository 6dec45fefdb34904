/**
 * Runs token ids through a model without an engine: logits of every position, and greedy answers. For
 * tests and tools; requests, sampling and slots are the engine's.
 */

import {
  type Backend,
  type Buffer,
  type KvType,
  type ModelCache,
  PAGE_TOKENS,
  type Plan,
} from "../backend/backend.ts";
import { CapacityError, RequestError } from "../errors.ts";
import { fillCosSin } from "./rope.ts";
import type { Model, StepInputs } from "./types.ts";

/** Recorded steps that are kept, by their shapes. */
const MAX_PLANS = 64;

export interface EvaluatorOptions {
  readonly model: Model;
  readonly backend: Backend;
  /** Rows per step at most; the `maxRows` that the model was loaded with, or less. */
  readonly maxRows: number;
  /** Sequences side by side. */
  readonly sequences: number;
  /** Tokens a sequence may hold. */
  readonly tokens: number;
  /** How the cache keeps its numbers; f32 by default. */
  readonly kvType?: KvType;
}

/** Tokens that a step appends to one sequence. */
export interface StepEntry {
  readonly sequence: number;
  readonly ids: readonly number[];
}

/** What the gate of one layer chose for some tokens. */
export interface LayerRouting {
  readonly layer: number;
  readonly topK: number;
  /** [tokens, topK], the best first. */
  readonly experts: Int32Array;
  /** [tokens, topK] */
  readonly weights: Float32Array;
}

/** What may be watched of a step's tokens besides their logits. */
export interface StepObserver {
  /** Gets the logits of every position, [tokens of the step, vocab]. */
  onLogits?(logits: Float32Array): void;
  /** Gets the choices of each layer with routed experts. */
  onRouting?(layers: readonly LayerRouting[]): void;
  /** Gets `Model.hidden` as numbers, [tokens of the step, hidden] each; needs `keepHidden`. */
  onHidden?(states: readonly Float32Array[]): void;
}

/** Sequences with their cache, fed step by step. */
export class Evaluator {
  readonly #model: Model;
  readonly #backend: Backend;
  readonly #maxRows: number;
  readonly #capacity: number;
  readonly #cache: ModelCache;
  readonly #inputs: StepInputs;
  /** The least recently used first. */
  readonly #plans = new Map<string, Plan>();
  /** Tokens in each sequence so far. */
  readonly #lengths: number[];
  /** Rows of the last step. */
  #rows = 0;

  constructor(options: EvaluatorOptions) {
    const { model, backend, maxRows, sequences, tokens, kvType = "f32" } = options;
    this.#model = model;
    this.#backend = backend;
    this.#maxRows = maxRows;
    const pagesEach = Math.ceil(tokens / PAGE_TOKENS);
    this.#capacity = pagesEach * PAGE_TOKENS;
    this.#lengths = new Array(sequences).fill(0);
    this.#cache = model.createKvCache(pagesEach * sequences, kvType);
    const create = (kind: Buffer["kind"], rows: number, width: number) =>
      backend.createBuffer({ kind, rows, width });
    this.#inputs = {
      ids: create("i32", maxRows, 1),
      cosSin: create("f32", maxRows, model.config.rope.dim),
      batch: {
        positions: create("i32", maxRows, 1),
        sequences: create("i32", maxRows, 1),
        pageTables: create("i32", sequences, pagesEach),
      },
      logitRows: create("i32", maxRows, 1),
    };
    // Neighbouring pages of a sequence are not neighbours in the cache, as in a busy engine.
    const tables = Int32Array.from(
      { length: pagesEach * sequences },
      (_, i) => (i % pagesEach) * sequences + Math.floor(i / pagesEach),
    );
    backend.write(this.#inputs.batch.pageTables, tables);
  }

  /** What steps read. */
  get inputs(): StepInputs {
    return this.#inputs;
  }

  /**
   * Appends a token to each sequence and submits the step without waiting for it; its logits are a row
   * for each. Without `ids` the tokens are those that the backend has put into `inputs.ids`. Throws
   * CapacityError where a sequence or the step is full.
   */
  submitNext(sequences: readonly number[], ids?: readonly number[]): void {
    const rows = sequences.length;
    if (rows < 1 || rows > this.#maxRows) throw tooMany("tokens of a step", rows, this.#maxRows);
    const positions = sequences.map((sequence) => {
      const end = this.#lengths[sequence] + 1;
      if (end > this.#capacity) throw tooMany("tokens of a sequence", end, this.#capacity);
      this.#lengths[sequence] = end;
      return end - 1;
    });
    const logitRows = sequences.map((_, row) => row);
    const checked = ids?.map((id) => this.#checkId(id));
    this.#write({ ...(checked && { ids: checked }), positions, sequences, logitRows });
    this.#backend.submit(this.#plan(rows, rows));
    this.#rows = rows;
  }

  /** Forgets what a sequence holds beyond its first `length` tokens. */
  truncate(sequence: number, length: number): void {
    this.#lengths[sequence] = Math.min(this.#lengths[sequence], length);
  }

  /**
   * Runs one step and returns the logits [tokens, vocab] of each entry's tokens, in the order of the
   * entries; with `logits: "last"` those of each entry's last token only. Throws CapacityError where
   * a sequence or the step is full and RequestError for ids outside the vocabulary.
   */
  async step(
    entries: readonly StepEntry[],
    options: { logits: "all" | "last" | "none" },
  ): Promise<Float32Array[]> {
    const rows = entries.reduce((sum, { ids }) => sum + ids.length, 0);
    if (rows < 1 || rows > this.#maxRows) throw tooMany("tokens of a step", rows, this.#maxRows);
    const ids: number[] = [];
    const positions: number[] = [];
    const sequences: number[] = [];
    const logitRows: number[] = [];
    for (const entry of entries) {
      const start = this.#lengths[entry.sequence];
      const end = start + entry.ids.length;
      if (end > this.#capacity) throw tooMany("tokens of a sequence", end, this.#capacity);
      for (const [i, id] of entry.ids.entries()) {
        const wanted = options.logits === "all" ||
          (options.logits === "last" && i === entry.ids.length - 1);
        if (wanted) logitRows.push(ids.length);
        ids.push(this.#checkId(id));
        positions.push(start + i);
        sequences.push(entry.sequence);
      }
      this.#lengths[entry.sequence] = end;
    }
    this.#write({ ids, positions, sequences, logitRows });
    this.#backend.submit(this.#plan(rows, logitRows.length));
    this.#rows = rows;
    if (logitRows.length === 0) {
      // Waits for the step all the same: the caller may time it.
      await this.#backend.read(this.#model.logits, { rows: 0 });
      return entries.map(() => new Float32Array(0));
    }
    const logits = await this.#backend.read(this.#model.logits, { rows: logitRows.length });
    return split(logits, { entries, vocab: this.#model.config.vocabSize, kept: options.logits });
  }

  /** What the gates chose in the last step, layer by layer. */
  async routing(): Promise<LayerRouting[]> {
    const rows = this.#rows;
    return await Promise.all(this.#model.routedLayers.map(async (routed) => ({
      layer: routed.layer,
      topK: routed.topK,
      experts: await this.#backend.readIntegers(routed.expertIds, { rows }),
      weights: await this.#backend.read(routed.weights, { rows }),
    })));
  }

  /**
   * The distinct experts that were foreseen for each routed layer in the last step, for all rows
   * together, ascending; none for a layer without `RoutedLayer.foreseen`.
   */
  async foreseen(): Promise<number[][]> {
    const rows = this.#rows;
    return await Promise.all(this.#model.routedLayers.map(async ({ foreseen }) => {
      if (foreseen === undefined) return [];
      const ids = await this.#backend.readIntegers(foreseen, { rows });
      return [...new Set(ids)].sort((a, b) => a - b);
    }));
  }

  /** The hidden states of the last step's rows, [rows, hidden] each; none without `keepHidden`. */
  async hidden(): Promise<Float32Array[]> {
    const rows = this.#rows;
    return await Promise.all(
      this.#model.hidden.map((state) => this.#backend.read(state, { rows })),
    );
  }

  /**
   * Evaluates `ids` from scratch as sequence 0, `chunk` tokens a step, and returns the logits [vocab]
   * of the last one.
   */
  async prefill(
    ids: readonly number[],
    options: { chunk: number } & StepObserver,
  ): Promise<Float32Array> {
    const { chunk, onLogits } = options;
    this.truncate(0, 0);
    let last: Float32Array = new Float32Array(0);
    for (let start = 0; start < ids.length; start += chunk) {
      const entry = { sequence: 0, ids: ids.slice(start, start + chunk) };
      const ends = start + chunk >= ids.length;
      const [logits] = await this.step([entry], {
        logits: onLogits !== undefined ? "all" : ends ? "last" : "none",
      });
      options.onLogits?.(logits);
      if (options.onRouting) options.onRouting(await this.routing());
      if (options.onHidden) options.onHidden(await this.hidden());
      if (ends) last = logits.slice(-this.#model.config.vocabSize);
    }
    return last;
  }

  /** The logits [tokens, vocab] of each sequence, evaluated from scratch, `chunk` tokens a step. */
  async allLogits(
    sequences: readonly (readonly number[])[],
    options: { chunk: number },
  ): Promise<Float32Array[]> {
    const results: Float32Array[] = [];
    for (const ids of sequences) {
      const logits = new Float32Array(ids.length * this.#model.config.vocabSize);
      let filled = 0;
      const onLogits = (part: Float32Array) => {
        logits.set(part, filled);
        filled += part.length;
      };
      await this.prefill(ids, { ...options, onLogits });
      results.push(logits);
    }
    return results;
  }

  /** The `count` most likely next tokens of sequence 0, each fed back in, from its last logits on. */
  async greedy(last: Float32Array, options: { count: number }): Promise<number[]> {
    const answer: number[] = [];
    let logits = last;
    while (answer.length < options.count) {
      const next = argmax(logits);
      answer.push(next);
      if (answer.length === options.count) break;
      [logits] = await this.step([{ sequence: 0, ids: [next] }], { logits: "last" });
    }
    return answer;
  }

  #checkId(id: number): number {
    const { vocabSize } = this.#model.config;
    if (Number.isInteger(id) && id >= 0 && id < vocabSize) return id;
    throw new RequestError(
      `cannot evaluate token ids: one is ${id}, must be an integer from 0 to ${vocabSize - 1}`,
    );
  }

  #write(
    step: {
      ids?: readonly number[];
      positions: readonly number[];
      sequences: readonly number[];
      logitRows: readonly number[];
    },
  ): void {
    const { ids, cosSin, batch, logitRows } = this.#inputs;
    const { rope } = this.#model.config;
    const angles = new Float32Array(step.positions.length * rope.dim);
    fillCosSin(rope, { positions: step.positions, out: angles });
    if (step.ids !== undefined) this.#backend.write(ids, Int32Array.from(step.ids));
    this.#backend.write(cosSin, angles);
    this.#backend.write(batch.positions, Int32Array.from(step.positions));
    this.#backend.write(batch.sequences, Int32Array.from(step.sequences));
    this.#backend.write(logitRows, Int32Array.from(step.logitRows));
  }

  #plan(rows: number, logitRowCount: number): Plan {
    const shape = `${rows} ${logitRowCount}`;
    const step = { inputs: this.#inputs, cache: this.#cache, rows, logitRowCount };
    const plan = this.#plans.get(shape) ??
      this.#backend.record((ops) => this.#model.forward(ops, step));
    this.#plans.delete(shape);
    this.#plans.set(shape, plan);
    if (this.#plans.size > MAX_PLANS) {
      const [oldest] = this.#plans.keys();
      this.#plans.delete(oldest);
    }
    return plan;
  }
}

/** The index of the largest value; the first one of equals. */
export function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

/** The `count` largest values with their indices, largest first. */
export function topOf(values: Float32Array, count: number): [index: number, value: number][] {
  const order = Array.from(values.keys()).sort((a, b) => values[b] - values[a] || a - b);
  return order.slice(0, count).map((index) => [index, values[index]]);
}

function split(
  logits: Float32Array,
  options: { entries: readonly StepEntry[]; vocab: number; kept: "all" | "last" | "none" },
): Float32Array[] {
  const { entries, vocab, kept } = options;
  let start = 0;
  return entries.map(({ ids }) => {
    const end = start + (kept === "all" ? ids.length : 1) * vocab;
    const part = logits.slice(start, end);
    start = end;
    return part;
  });
}

function tooMany(what: string, is: number, most: number): CapacityError {
  return new CapacityError(`cannot evaluate: the ${what} are ${is}, must be from 1 to ${most}`);
}
