/**
 * Sequences packed into the rows of one step. They lie side by side and don't see each other: each has
 * pages of its own, so packing costs no attention across samples.
 */

import { PAGE_TOKENS } from "../backend/backend.ts";
import { CapacityError } from "../errors.ts";

/** Tokens that a model reads, and what it is to predict after each of them. */
export interface TrainingSequence {
  readonly inputs: ArrayLike<number>;
  /** As many. */
  readonly targets: ArrayLike<number>;
  /** Each target's share of the loss; 0 where it has none. */
  readonly weights: ArrayLike<number>;
  /** For the policy objective, as many each. */
  readonly policy?: {
    readonly oldLogProbs: ArrayLike<number>;
    readonly advantages: ArrayLike<number>;
    readonly referenceLogProbs?: ArrayLike<number>;
  };
  /** The experts that earlier steps chose, [layer][token * topK + rank]; see router replay. */
  readonly chosen?: readonly ArrayLike<number>[];
}

/** The sequence of tokens in which each is to be predicted from those before it, by its weight. */
export function nextTokens(
  ids: ArrayLike<number>,
  weights: ArrayLike<number>,
): TrainingSequence {
  const all = Int32Array.from(ids);
  return {
    inputs: all.subarray(0, -1),
    targets: all.subarray(1),
    weights: Float64Array.from(weights).subarray(1),
  };
}

export interface BatchShape {
  /** Rows of a step; those that are left over are filled up. */
  readonly rows: number;
  /** Rows whose logits are computed, at most `rows`. */
  readonly logitRows: number;
  /** Sequences at most. */
  readonly sequences: number;
}

/** Where the rows of packed sequences belong; one entry a row where nothing else is said. */
export interface PackedRows {
  readonly ids: Int32Array;
  readonly positions: Int32Array;
  readonly sequences: Int32Array;
  /** Pages of each sequence, `[sequences + 1, pages of a sequence]`. */
  readonly pageTables: Int32Array;
  /** 1 for rows of sequences, 0 for rows that fill up. */
  readonly counted: Float32Array;
  /** Tokens of the row's sequence; 0 for rows that fill up. */
  readonly lengths: Int32Array;
  /** Of each row of logits: the row it is of, all different, and its target and weight. */
  readonly logitRows: Int32Array;
  readonly targets: Int32Array;
  readonly tokenWeights: Float32Array;
  /** Of each row of logits, its sequence, -1 for those that fill up, and its place there. */
  readonly origins: { readonly sequences: Int32Array; readonly tokens: Int32Array };
}

/** Pages that the rows of a step may take, whatever sequences they are. */
export function pagesFor({ rows, sequences }: BatchShape): { each: number; all: number } {
  const each = Math.ceil(rows / PAGE_TOKENS);
  return { each, all: each + sequences + 1 };
}

/** Packs sequences in order; throws CapacityError where they are too many or too long together. */
export function packRows(sequences: readonly TrainingSequence[], shape: BatchShape): PackedRows {
  const { rows } = shape;
  const used = sequences.reduce((sum, { inputs }) => sum + inputs.length, 0);
  checkCount("rows", used, rows);
  checkCount("sequences", sequences.length, shape.sequences);
  const { each } = pagesFor(shape);
  const packed = {
    ids: new Int32Array(rows),
    positions: new Int32Array(rows),
    sequences: new Int32Array(rows),
    pageTables: new Int32Array((shape.sequences + 1) * each),
    counted: new Float32Array(rows),
    lengths: new Int32Array(rows),
  };
  const logits = new LogitRows(shape);
  let row = 0;
  let page = 0;
  for (const [s, sequence] of sequences.entries()) {
    const { length } = sequence.inputs;
    for (let i = 0; i < Math.ceil(length / PAGE_TOKENS); i++) {
      packed.pageTables[s * each + i] = page++;
    }
    for (let token = 0; token < length; token++, row++) {
      packed.positions[row] = token;
      packed.sequences[row] = s;
      packed.ids[row] = sequence.inputs[token];
      packed.counted[row] = 1;
      packed.lengths[row] = length;
      if (sequence.weights[token] !== 0) logits.add(sequence, { row, sequence: s, token });
    }
  }
  // What fills up is the first token of one more sequence again and again, so that it sees nothing else.
  packed.pageTables[sequences.length * each] = page;
  packed.sequences.fill(sequences.length, row);
  return { ...packed, ...logits.finish() };
}

/** The rows of logits: those that are wanted, then rows that aren't, without weight. */
class LogitRows {
  readonly #shape: BatchShape;
  readonly #rows: Int32Array;
  readonly #targets: Int32Array;
  readonly #weights: Float32Array;
  readonly #sequences: Int32Array;
  readonly #tokens: Int32Array;
  readonly #isWanted: Uint8Array;
  #count = 0;

  constructor(shape: BatchShape) {
    const { rows, logitRows } = shape;
    this.#shape = shape;
    this.#rows = new Int32Array(logitRows);
    this.#targets = new Int32Array(logitRows);
    this.#weights = new Float32Array(logitRows);
    this.#sequences = new Int32Array(logitRows).fill(-1);
    this.#tokens = new Int32Array(logitRows).fill(-1);
    this.#isWanted = new Uint8Array(rows);
  }

  add(
    { targets, weights }: TrainingSequence,
    { row, sequence, token }: { row: number; sequence: number; token: number },
  ): void {
    const at = this.#count++;
    this.#isWanted[row] = 1;
    if (at >= this.#shape.logitRows) return;
    this.#rows[at] = row;
    this.#targets[at] = targets[token];
    this.#weights[at] = weights[token];
    this.#sequences[at] = sequence;
    this.#tokens[at] = token;
  }

  /** Throws CapacityError where more were added than there is room for. */
  finish(): Pick<PackedRows, "logitRows" | "targets" | "tokenWeights" | "origins"> {
    const { rows, logitRows } = this.#shape;
    checkCount("rows with a target", this.#count, logitRows);
    for (let row = 0, at = this.#count; row < rows && at < logitRows; row++) {
      if (this.#isWanted[row] === 0) this.#rows[at++] = row;
    }
    return {
      logitRows: this.#rows,
      targets: this.#targets,
      tokenWeights: this.#weights,
      origins: { sequences: this.#sequences, tokens: this.#tokens },
    };
  }
}

function checkCount(what: string, is: number, most: number): void {
  if (is <= most) return;
  throw new CapacityError(`cannot pack sequences: the ${what} are ${is}, must be at most ${most}`);
}
