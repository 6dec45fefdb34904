/**
 * Packed sequences in an order that is a function of the seed alone: the place in it is one number, so
 * that a run goes on anywhere. Files come in random order, and their sequences in random order within them,
 * so that one file at a time is in memory.
 */

import { FormatError } from "../../errors.ts";
import type { PackedSequence } from "../data/packing/packer.ts";
import { Draws } from "../data/draws.ts";

export interface PackedFile {
  readonly name: string;
  /** Sequences in it. */
  readonly count: number;
  read(): Promise<readonly PackedSequence[]>;
}

/** The first `count` sequences of all. */
export function firstOf(files: readonly PackedFile[], count: number): PackedFile[] {
  let left = count;
  return files.flatMap((file) => {
    const own = Math.min(left, file.count);
    left -= own;
    if (own === 0) return [];
    return [{ ...file, count: own, read: async () => (await file.read()).slice(0, own) }];
  });
}

export class PackedStream {
  /** Sequences of one pass. */
  readonly length: number;
  readonly #files: readonly PackedFile[];
  readonly #seed: string;
  #order: { epoch: number; files: readonly PackedFile[] } | null = null;
  #open: { key: string; sequences: readonly PackedSequence[] } | null = null;

  /** `seed` names the order: other names give other orders. */
  constructor(files: readonly PackedFile[], { seed }: { seed: string }) {
    this.#files = files;
    this.#seed = seed;
    this.length = files.reduce((sum, { count }) => sum + count, 0);
    if (this.length === 0) {
      throw FormatError.of("read packed data", "the number of sequences", 0, "at least 1");
    }
  }

  /** The sequence at a place, counted over all passes. */
  async at(place: number): Promise<PackedSequence> {
    const epoch = Math.floor(place / this.length);
    if (this.#order?.epoch !== epoch) {
      const files = new Draws(`${this.#seed}/${epoch}`).shuffle(this.#files);
      this.#order = { epoch, files };
    }
    let rest = place % this.length;
    for (const file of this.#order.files) {
      if (rest < file.count) return (await this.#shuffled(file, epoch))[rest];
      rest -= file.count;
    }
    throw new RangeError(`cannot read packed data: place ${place} is in no file`);
  }

  async #shuffled(file: PackedFile, epoch: number): Promise<readonly PackedSequence[]> {
    const key = `${this.#seed}/${epoch}/${file.name}`;
    if (this.#open?.key !== key) {
      const sequences = [...await file.read()];
      const draws = new Draws(key);
      for (let i = sequences.length - 1; i > 0; i--) {
        const j = draws.integer(0, i);
        [sequences[i], sequences[j]] = [sequences[j], sequences[i]];
      }
      this.#open = { key, sequences };
    }
    return this.#open.sequences;
  }
}
