/** The buffers that the host fills before each step, and those that a step fills. */

import type { Buffer } from "../backend/backend.ts";
import { CLOCK, CLOCK_ROWS, TOTALS_ROWS } from "../backend/training.ts";
import { fillCosSin } from "../model/rope.ts";
import type { Model, StepInputs } from "../model/types.ts";
import {
  type BatchShape,
  type PackedRows,
  packRows,
  pagesFor,
  type TrainingSequence,
} from "./batch.ts";
import type { TapeBackend } from "./tape/mod.ts";

/** What balance losses weigh rows by: alpha, shared among the sequences or tokens of the whole step. */
export interface BalanceShare {
  readonly over: "sequence" | "batch";
  readonly alpha: number;
  /** Of the whole step, all micro-batches and workers together. */
  readonly sequences: number;
  readonly tokens: number;
}

export class StepBuffers {
  readonly shape: BatchShape;
  readonly inputs: StepInputs;
  readonly targets: Buffer;
  readonly tokenWeights: Buffer;
  readonly oldLogProbs: Buffer;
  readonly advantages: Buffer;
  readonly referenceLogProbs: Buffer;
  /** f32 [rows, 1]: 1 for rows of sequences, and their weights in the balance loss. */
  readonly counted: Buffer;
  readonly balanceWeights: Buffer;
  /** i32 [rows, topK] for each gate: choices to replay. */
  readonly chosen: readonly Buffer[];
  /** Filled by steps: log-probabilities of targets, `TOTALS`, `CLOCK`. */
  readonly logProbs: Buffer;
  readonly totals: Buffer;
  readonly clock: Buffer;
  readonly #tape: TapeBackend;
  readonly #model: Model;
  readonly #angles: Float32Array;
  /** Of the positions so far, `[positions, dim]`. */
  #anglesByPosition = new Float32Array(0);

  constructor(
    { tape, model }: { tape: TapeBackend; model: Model },
    options: {
      shape: BatchShape;
      lossScale: number;
      /** Whose totals and clock are used, where several micro-batches are under way at a time. */
      shared?: Pick<StepBuffers, "totals" | "clock">;
    },
  ) {
    const { shape, lossScale, shared } = options;
    this.#tape = tape;
    this.#model = model;
    this.shape = shape;
    const { rows, logitRows, sequences } = shape;
    this.#angles = new Float32Array(rows * model.config.rope.dim);
    const create = (kind: Buffer["kind"], rows: number, width = 1) =>
      tape.createBuffer({ kind, rows, width });
    this.inputs = {
      ids: create("i32", rows),
      cosSin: create("f32", rows, model.config.rope.dim),
      batch: {
        positions: create("i32", rows),
        sequences: create("i32", rows),
        pageTables: create("i32", sequences + 1, pagesFor(shape).each),
      },
      logitRows: create("i32", logitRows),
    };
    const { inner } = tape;
    const own = (kind: Buffer["kind"], rows: number, width = 1) =>
      inner.createBuffer({ kind, rows, width });
    this.targets = own("i32", logitRows);
    this.tokenWeights = own("f32", logitRows);
    this.oldLogProbs = own("f32", logitRows);
    this.advantages = own("f32", logitRows);
    this.referenceLogProbs = own("f32", logitRows);
    this.counted = own("f32", rows);
    this.balanceWeights = own("f32", rows);
    this.chosen = model.routedLayers.map(({ topK }) => own("i32", rows, topK));
    this.logProbs = own("f32", logitRows);
    this.totals = shared?.totals ?? own("f32", TOTALS_ROWS);
    this.clock = shared?.clock ?? own("f32", CLOCK_ROWS);
    if (shared !== undefined) return;
    const clock = new Float32Array(CLOCK_ROWS);
    clock[CLOCK.lossScale] = lossScale;
    inner.write(this.clock, clock);
  }

  /** Packs sequences and writes them; takes effect before the next submit. */
  fill(sequences: readonly TrainingSequence[], balance?: BalanceShare): PackedRows {
    const packed = packRows(sequences, this.shape);
    const { ids, cosSin, batch, logitRows } = this.inputs;
    const tape = this.#tape;
    tape.write(ids, packed.ids);
    tape.write(cosSin, this.#anglesAt(packed.positions));
    tape.write(batch.positions, packed.positions);
    tape.write(batch.sequences, packed.sequences);
    tape.write(batch.pageTables, packed.pageTables);
    tape.write(logitRows, packed.logitRows);
    tape.write(this.targets, packed.targets);
    tape.write(this.tokenWeights, packed.tokenWeights);
    tape.write(this.counted, packed.counted);
    if (balance !== undefined) tape.write(this.balanceWeights, balanceWeights(packed, balance));
    this.#fillPolicy(sequences, packed);
    this.#fillChosen(sequences, packed);
    return packed;
  }

  /** Cosines and sines of rows; those of a position are computed once. */
  #anglesAt(positions: Int32Array): Float32Array {
    const { rope } = this.#model.config;
    const { dim } = rope;
    const most = positions.reduce((most, position) => Math.max(most, position), 0);
    if (this.#anglesByPosition.length <= most * dim) {
      const all = Int32Array.from({ length: most + 1 }, (_, position) => position);
      this.#anglesByPosition = new Float32Array(all.length * dim);
      fillCosSin(rope, { positions: all, out: this.#anglesByPosition });
    }
    const [known, angles] = [this.#anglesByPosition, this.#angles];
    for (let row = 0, at = 0; row < positions.length; row++) {
      const from = positions[row] * dim;
      for (let i = 0; i < dim; i++) angles[at++] = known[from + i];
    }
    return angles;
  }

  #fillPolicy(sequences: readonly TrainingSequence[], { origins }: PackedRows): void {
    if (sequences.every(({ policy }) => policy === undefined)) return;
    const each = (of: (policy: NonNullable<TrainingSequence["policy"]>) => ArrayLike<number>) =>
      origins.tokens.reduce((values, token, i) => {
        const policy = sequences[origins.sequences[i]]?.policy;
        if (policy !== undefined) values[i] = of(policy)[token];
        return values;
      }, new Float32Array(origins.tokens.length));
    const tape = this.#tape;
    tape.write(this.oldLogProbs, each(({ oldLogProbs }) => oldLogProbs));
    tape.write(this.advantages, each(({ advantages }) => advantages));
    const references = each(({ oldLogProbs, referenceLogProbs = oldLogProbs }) =>
      referenceLogProbs
    );
    tape.write(this.referenceLogProbs, references);
  }

  #fillChosen(sequences: readonly TrainingSequence[], packed: PackedRows): void {
    if (sequences.every(({ chosen }) => chosen === undefined)) return;
    for (const [gate, buffer] of this.chosen.entries()) {
      const values = new Int32Array(buffer.rows * buffer.width);
      for (let row = 0; row < buffer.rows; row++) {
        const chosen = sequences[packed.sequences[row]]?.chosen?.[gate];
        for (let j = 0; j < buffer.width; j++) {
          // Rows that fill up choose the first experts, which are different at least.
          const given = chosen?.[packed.positions[row] * buffer.width + j];
          values[row * buffer.width + j] = given ?? j;
        }
      }
      this.#tape.write(buffer, values);
    }
  }
}

function balanceWeights({ lengths }: PackedRows, share: BalanceShare): Float32Array {
  const { over, alpha, sequences, tokens } = share;
  const weights = new Float32Array(lengths.length);
  for (const [row, length] of lengths.entries()) {
    if (length === 0) continue;
    weights[row] = over === "sequence" ? alpha / (length * sequences) : alpha / tokens;
  }
  return weights;
}
