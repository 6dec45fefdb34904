/** Deals the sequences of a step out to micro-batches. */

import { CapacityError } from "../../errors.ts";
import type { BatchShape, TrainingSequence } from "../batch.ts";

interface Batch {
  rows: number;
  logitRows: number;
  readonly sequences: TrainingSequence[];
}

/**
 * Puts each sequence into the first micro-batch that has room for it. Throws CapacityError for one that
 * fits into none.
 */
export function microBatches(
  sequences: readonly TrainingSequence[],
  shape: BatchShape,
): TrainingSequence[][] {
  const batches: Batch[] = [];
  for (const sequence of sequences) {
    const rows = sequence.inputs.length;
    const logitRows = countWeights(sequence);
    if (rows > shape.rows || logitRows > shape.logitRows) {
      throw new CapacityError(
        `cannot make micro-batches: a sample has ${rows} tokens, must have at most ` +
          `${Math.min(shape.rows, shape.logitRows)} (the recipe's batch.rows)`,
      );
    }
    let batch = batches.find((open) =>
      open.rows + rows <= shape.rows && open.logitRows + logitRows <= shape.logitRows &&
      open.sequences.length < shape.sequences
    );
    if (batch === undefined) {
      batch = { rows: 0, logitRows: 0, sequences: [] };
      batches.push(batch);
    }
    batch.rows += rows;
    batch.logitRows += logitRows;
    batch.sequences.push(sequence);
  }
  return batches.map(({ sequences }) => sequences);
}

function countWeights({ weights }: TrainingSequence): number {
  let count = 0;
  for (let i = 0; i < weights.length; i++) if (weights[i] !== 0) count++;
  return count;
}
