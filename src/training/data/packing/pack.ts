/** Packs the rows of a corpus into files of sequences. */

import type { PackRecipe } from "../recipe/recipe.ts";
import type { Draft } from "../rows.ts";
import type { SampleEncoder } from "./encode.ts";
import { packedBytes, packedName } from "./packed_file.ts";
import { type PackedSequence, Packer, type PackStatistics } from "./packer.ts";

export interface PackOptions {
  readonly recipe: PackRecipe;
  readonly encoder: SampleEncoder;
  readonly padToken: number;
  /** Puts a file in place. */
  readonly write: (name: string, bytes: Uint8Array<ArrayBuffer>) => void;
  readonly onProgress?: (rows: number) => void;
}

/** Rows between two reports. */
const ROWS_PER_REPORT = 500;

/** Encodes and packs all rows, in order; returns what came of them. */
export async function packCorpus(
  rows: AsyncIterable<Draft>,
  options: PackOptions,
): Promise<PackStatistics> {
  const { recipe, encoder, padToken } = options;
  let sequences: PackedSequence[] = [];
  let files = 0;
  const write = () => {
    options.write(packedName(files++), packedBytes(sequences));
    sequences = [];
  };
  const packer = new Packer({
    length: recipe.length,
    padToken,
    emit(sequence) {
      sequences.push(sequence);
      if (sequences.length === recipe.sequences) write();
    },
  });
  let read = 0;
  for await (const row of rows) {
    for (const sample of encoder.encode(row)) packer.add(sample);
    if (++read % ROWS_PER_REPORT === 0) options.onProgress?.(read);
  }
  packer.finish();
  if (sequences.length > 0) write();
  return packer.statistics;
}
