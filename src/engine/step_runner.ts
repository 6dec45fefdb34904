/**
 * Runs steps on a backend: fills the parameter buffers, submits the recorded forward pass of the
 * step's shape, reads the logits. A row's logits depend on its sequence alone, never on what else is
 * in the step: nothing here may mix rows.
 */

import {
  type Backend,
  type Buffer,
  type ExpertTraffic,
  type KvType,
  type ModelCache,
  PAGE_TOKENS,
  type PagePart,
  type Plan,
} from "../backend/backend.ts";
import { fillCosSin } from "../model/rope.ts";
import type { Model, StepInputs } from "../model/types.ts";
import { BURST_TOKENS, turnsOf } from "./burst.ts";
import { type Choices, Choosing } from "./choosing.ts";
import { pagesFor } from "./pages.ts";
import type { StepRouting } from "./routing.ts";
import { CHOSEN_THERE, type Step, type StepRow } from "./schedule.ts";

export interface StepRunnerOptions {
  readonly backend: Backend;
  readonly model: Model;
  readonly slots: number;
  /** Rows of a step at most: the model's, at least the chunk and one row for each slot. */
  readonly maxRows: number;
  /** Pages of the cache, and how they are kept. */
  readonly pages: number;
  readonly kvType: KvType;
  /** Tokens a sequence may hold. */
  readonly contextLength: number;
}

/** Some of a page of the runner's cache. */
export type RunnerPage = Omit<PagePart, "cache">;

/** Recorded plans kept; answering alone needs one per number of busy slots. */
const MAX_PLANS = 64;

/** Page table entries that no row may reach. */
const NO_PAGE = -1;

export class StepRunner {
  /** Bytes of so many tokens of a page as `readPage` gives them, index 0 unused. */
  readonly unitBytes: readonly number[];
  readonly #backend: Backend;
  readonly #model: Model;
  readonly #cache: ModelCache;
  readonly #inputs: StepInputs;
  readonly #maxRows: number;
  /** Null where the backend leaves choosing to the host. */
  readonly #choosing: Choosing | null;
  /** Brings to the rows' ids what was chosen last for their sequences. */
  readonly #follow: Plan | null;
  /** By shape of the step, the least recently used first. */
  readonly #plans = new Map<string, Plan>();
  readonly #scratch: {
    readonly ids: Int32Array;
    readonly positions: Int32Array;
    readonly sequences: Int32Array;
    readonly logitRows: Int32Array;
    readonly cosSin: Float32Array;
    readonly pageTable: Int32Array;
  };

  /** Logits of the present step, kept from step to step: a new array costs a page fault per 4 KiB. */
  #logits = new Float32Array(0);

  /** Creates the cache and the parameter buffers; throws CapacityError where memory is short. */
  constructor(options: StepRunnerOptions) {
    const { backend, model, maxRows } = options;
    this.#backend = backend;
    this.#model = model;
    this.#maxRows = maxRows;
    this.#cache = model.createKvCache(options.pages, options.kvType);
    this.unitBytes = Array.from(
      { length: PAGE_TOKENS + 1 },
      (_, tokens) => tokens === 0 ? 0 : backend.pageBytes(this.#cache, tokens),
    );
    const ropeDim = model.config.rope.dim;
    const maxLogitRows = model.logits.rows;
    const pagesEach = pagesFor(options.contextLength);
    const create = (kind: Buffer["kind"], rows: number, width: number) =>
      backend.createBuffer({ kind, rows, width });
    this.#inputs = {
      ids: create("i32", maxRows, 1),
      cosSin: create("f32", maxRows, ropeDim),
      batch: {
        positions: create("i32", maxRows, 1),
        sequences: create("i32", maxRows, 1),
        pageTables: create("i32", options.slots, pagesEach),
      },
      logitRows: create("i32", maxLogitRows, 1),
    };
    this.#scratch = {
      ids: new Int32Array(maxRows),
      positions: new Int32Array(maxRows),
      sequences: new Int32Array(maxRows),
      logitRows: new Int32Array(maxLogitRows),
      cosSin: new Float32Array(maxRows * ropeDim),
      pageTable: new Int32Array(pagesEach),
    };
    // The largest step first: what a backend allocates for a recording is known before any request.
    this.#plan(maxRows, maxLogitRows);
    const { slots } = options;
    const { ids, batch: { sequences } } = this.#inputs;
    const choosing = { backend, slots, turns: BURST_TOKENS, logits: model.logits, ids, sequences };
    this.#choosing = backend.chooses ? new Choosing(choosing) : null;
    const largest = this.#choosing?.params({ rows: slots, samples: true });
    if (largest !== undefined) backend.record((ops) => ops.choose(largest));
    this.#follow = largest === undefined
      ? null
      : backend.record((ops) =>
        ops.gatherRows({ x: largest.latest, indices: sequences, out: ids, rows: slots })
      );
  }

  /**
   * Computes a step and returns the logits, `[rows that want them, vocabulary]` in the order of the
   * rows; the array is valid until the next step. A step without rows changes pages only. Rejects with
   * the backend's error; the sequences of the step are lost then.
   */
  async run(step: Step): Promise<Float32Array> {
    const { rows } = step;
    if (rows.length > this.#maxRows) {
      throw new RangeError(
        `cannot run a step: its rows are ${rows.length}, must be at most ${this.#maxRows}`,
      );
    }
    this.#changePages(step);
    if (rows.length === 0) return this.#logits;
    const logitRowCount = this.#writeStep(rows);
    this.#backend.submit(this.#plan(rows.length, logitRowCount));
    const wanted = logitRowCount * this.#model.logits.width;
    if (this.#logits.length < wanted) this.#logits = new Float32Array(wanted);
    // A plan may run behind `submit`, and only reading waits for it: so read, be it no rows.
    return await this.#backend.read(this.#model.logits, {
      rows: logitRowCount,
      into: this.#logits,
    });
  }

  /**
   * Computes a burst and returns what was chosen behind each of its rows, as `Ops.choose` says it, by the
   * samplers of their sequences, which don't count it; rejects as `run`. All of it is submitted when the
   * call returns, so that another one may follow at once: a sequence of which the last burst has not been
   * read yet begins with CHOSEN_THERE.
   */
  async choose(step: Step, choicesOf: (sequence: number) => Choices): Promise<Int32Array> {
    const { rows } = step;
    const choosing = this.#choosing!;
    this.#changePages(step);
    const turns = turnsOf(rows);
    const choice = choosing.prepare({ rows, turns }, choicesOf) ? "sampled" : "greedy";
    for (const [turn, indices] of turns.entries()) {
      this.#writeStep(indices.map((index) => rows[index]));
      choosing.begin(turn);
      if (rows[indices[0]].token === CHOSEN_THERE && turn === 0) {
        this.#backend.submit(this.#follow!);
      }
      this.#backend.submit(this.#plan(indices.length, indices.length, choice));
    }
    return await choosing.read(turns);
  }

  /** Copies the first tokens of a page out, as they are at the call. */
  async readPage(part: RunnerPage): Promise<Uint8Array<ArrayBuffer>> {
    return await this.#backend.readPage({ cache: this.#cache, ...part });
  }

  /** The reverse; not while a step runs. */
  writePage(part: RunnerPage, bytes: Uint8Array): void {
    this.#backend.writePage({ cache: this.#cache, ...part }, bytes);
  }

  /** What the gates chose in the last step, which had `rows` rows; read before the next one. */
  async readRouting(rows: number, options: { weights: boolean }): Promise<StepRouting> {
    const layers = this.#model.routedLayers;
    const [experts, weights] = await Promise.all([
      Promise.all(layers.map((layer) => this.#backend.readIntegers(layer.expertIds, { rows }))),
      options.weights
        ? Promise.all(layers.map((layer) => this.#backend.read(layer.weights, { rows })))
        : null,
    ]);
    return { experts, weights };
  }

  expertTraffic(): readonly ExpertTraffic[] {
    return this.#backend.expertTraffic();
  }

  /** Whether `choose` works. */
  get chooses(): boolean {
    return this.#choosing !== null;
  }

  /** Closes the backend. */
  close(): void {
    this.#backend.close();
  }

  #changePages({ slotPages, copies }: Step): void {
    const { pageTable } = this.#scratch;
    for (const { slot, pages } of slotPages) {
      pageTable.fill(NO_PAGE).set(pages);
      this.#backend.write(this.#inputs.batch.pageTables, pageTable, slot);
    }
    for (const { from, to, tokens } of copies) {
      this.#backend.copyPage({ cache: this.#cache, page: from, tokens }, to);
    }
  }

  /** Fills the parameter buffers, but for ids that the backend has chosen itself; returns the rows of logits. */
  #writeStep(rows: readonly StepRow[]): number {
    const scratch = this.#scratch;
    let logitRowCount = 0;
    for (const [i, row] of rows.entries()) {
      scratch.ids[i] = row.token;
      scratch.positions[i] = row.position;
      scratch.sequences[i] = row.slot;
      if (row.wantsLogits) scratch.logitRows[logitRowCount++] = i;
    }
    this.#writeRows(rows, logitRowCount);
    return logitRowCount;
  }

  #writeRows({ length: count, 0: { token } }: readonly StepRow[], logitRowCount: number): void {
    const { rope } = this.#model.config;
    const { ids, positions, sequences, logitRows, cosSin } = this.#scratch;
    const used = positions.subarray(0, count);
    const angles = cosSin.subarray(0, count * rope.dim);
    // Not worth a table by position: a row's sines are a thousandth of the row's arithmetic.
    fillCosSin(rope, { positions: used, out: angles });
    const inputs = this.#inputs;
    if (token !== CHOSEN_THERE) this.#backend.write(inputs.ids, ids.subarray(0, count));
    this.#backend.write(inputs.cosSin, angles);
    this.#backend.write(inputs.batch.positions, used);
    this.#backend.write(inputs.batch.sequences, sequences.subarray(0, count));
    if (logitRowCount > 0) {
      this.#backend.write(inputs.logitRows, logitRows.subarray(0, logitRowCount));
    }
  }

  /** The plan of a step's shape; a choice that is named is made behind the logits of all rows. */
  #plan(rows: number, logitRowCount: number, choice?: "greedy" | "sampled"): Plan {
    const shape = `${rows}/${logitRowCount}/${choice}`;
    const known = this.#plans.get(shape);
    const step = { inputs: this.#inputs, cache: this.#cache, rows, logitRowCount };
    const plan = known ?? this.#backend.record((ops) => {
      this.#model.forward(ops, step);
      if (choice === undefined) return;
      ops.choose(this.#choosing!.params({ rows, samples: choice === "sampled" }));
    });
    this.#plans.delete(shape);
    this.#plans.set(shape, plan);
    if (this.#plans.size > MAX_PLANS) {
      const [oldest] = this.#plans.keys();
      this.#plans.delete(oldest);
    }
    return plan;
  }
}
