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
  const all = Array.from(ids);
  return { inputs: all.slice(0, -1), targets: all.slice(1), weights: Array.from(weights).slice(1) };
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
  /** Of each row of logits, its sequence and its place there; -1 for those that fill up. */
  readonly origins: readonly { readonly sequence: number; readonly token: number }[];
}

/** Pages that the rows of a step may take, whatever sequences they are. */
export function pagesFor({ rows, sequences }: BatchShape): { each: number; all: number } {
  const each = Math.ceil(rows / PAGE_TOKENS);
  return { each, all: each + sequences + 1 };
}

/** Packs sequences in order; throws CapacityError where they are too many or too long together. */
export function packRows(sequences: readonly TrainingSequence[], shape: BatchShape): PackedRows {
  const { rows, logitRows } = shape;
  const used = sequences.reduce((sum, { inputs }) => sum + inputs.length, 0);
  checkCount("rows", used, rows);
  checkCount("sequences", sequences.length, shape.sequences);
  const lengths = sequences.map(({ inputs }) => inputs.length);
  // What fills up is a sequence of its own, the last one.
  if (used < rows) lengths.push(rows - used);
  const { each } = pagesFor(shape);
  const packed = {
    ids: new Int32Array(rows),
    positions: new Int32Array(rows),
    sequences: new Int32Array(rows),
    pageTables: new Int32Array((shape.sequences + 1) * each),
    counted: new Float32Array(rows),
    lengths: new Int32Array(rows),
  };
  const wanted: { row: number; sequence: number; token: number }[] = [];
  let row = 0;
  let page = 0;
  for (const [s, length] of lengths.entries()) {
    const sequence = sequences.at(s);
    for (let i = 0; i < Math.ceil(length / PAGE_TOKENS); i++) {
      packed.pageTables[s * each + i] = page++;
    }
    for (let token = 0; token < length; token++, row++) {
      packed.positions[row] = token;
      packed.sequences[row] = s;
      if (sequence === undefined || s === sequences.length) continue;
      packed.ids[row] = sequence.inputs[token];
      packed.counted[row] = 1;
      packed.lengths[row] = length;
      if (sequence.weights[token] !== 0) wanted.push({ row, sequence: s, token });
    }
  }
  return { ...packed, ...logitsOf(wanted, { sequences, rows, logitRows }) };
}

/** The rows of logits: those that are wanted, then rows that aren't, without weight. */
function logitsOf(
  wanted: readonly { row: number; sequence: number; token: number }[],
  options: { sequences: readonly TrainingSequence[]; rows: number; logitRows: number },
): Pick<PackedRows, "logitRows" | "targets" | "tokenWeights" | "origins"> {
  const { sequences, rows, logitRows } = options;
  checkCount("rows with a target", wanted.length, logitRows);
  const isWanted = new Set(wanted.map(({ row }) => row));
  const others = Array.from({ length: rows }, (_, row) => row).filter((row) => !isWanted.has(row));
  const filling = others.slice(0, logitRows - wanted.length);
  const origins = [
    ...wanted.map(({ sequence, token }) => ({ sequence, token })),
    ...filling.map(() => ({ sequence: -1, token: -1 })),
  ];
  const each = (of: (sequence: TrainingSequence) => ArrayLike<number>) =>
    origins.map(({ sequence, token }) => sequence < 0 ? 0 : of(sequences[sequence])[token]);
  return {
    logitRows: Int32Array.from([...wanted.map(({ row }) => row), ...filling]),
    targets: Int32Array.from(each(({ targets }) => targets)),
    tokenWeights: Float32Array.from(each(({ weights }) => weights)),
    origins,
  };
}

function checkCount(what: string, is: number, most: number): void {
  if (is <= most) return;
  throw new CapacityError(`cannot pack sequences: the ${what} are ${is}, must be at most ${most}`);
}
