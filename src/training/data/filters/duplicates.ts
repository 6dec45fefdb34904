/**
 * Finds exact duplicates by hash and near-duplicates by MinHash signatures in bands (Broder 1997; Leskovec
 * et al., Mining of Massive Datasets, 3.4). It remembers the last `window` rows, so that memory has a
 * bound; what is remembered can be written down and read again, and then behaves the same.
 */

import { hashText, hashWords, mix32 } from "../hash.ts";
import { normalized, wordHashes } from "./words.ts";

export interface DuplicateOptions {
  /** Near-duplicates share at least this much of their runs of words (Jaccard); null: exact ones only. */
  readonly near: number | null;
  /** Words in a run. */
  readonly words: number;
  /** Values in a signature. */
  readonly hashes: number;
  /** Rows that are remembered. */
  readonly window: number;
}

/** Two words of hash, then the signature. */
export type Fingerprint = Uint32Array;

const EXACT_WORDS = 2;

export class DuplicateIndex {
  /** Length of a fingerprint. */
  readonly length: number;
  readonly #options: DuplicateOptions;
  readonly #rowsPerBand: number;
  readonly #bands: number;
  /** Fingerprints of the last `window` rows, row n at n modulo window. */
  readonly #ring: Uint32Array;
  /** Exact hash to the number of the row that had it last. */
  readonly #exact = new Map<number, number>();
  /** For a band's value, the last row that had it, plus one; what another value overwrites is lost. */
  readonly #table: Uint32Array;
  #count: number;

  /** `first`: the number of the first row that will be added. */
  constructor(options: DuplicateOptions, { first = 0 }: { first?: number } = {}) {
    this.#options = options;
    this.#count = first;
    const signature = options.near === null ? 0 : options.hashes;
    this.length = EXACT_WORDS + signature;
    this.#rowsPerBand = options.near === null ? 1 : bandRows(options.near, options.hashes);
    this.#bands = Math.floor(signature / this.#rowsPerBand);
    this.#ring = new Uint32Array(options.window * this.length);
    const entries = 4 * options.window * this.#bands;
    this.#table = new Uint32Array(entries === 0 ? 1 : 2 ** Math.ceil(Math.log2(entries)));
  }

  /** What is remembered of a text. */
  fingerprint(text: string): Fingerprint {
    const print = new Uint32Array(this.length);
    const exact = hashText(normalized(text));
    print[0] = Math.floor(exact / 2 ** 32);
    print[1] = exact % 2 ** 32;
    if (this.length === EXACT_WORDS) return print;
    const words = wordHashes(text);
    const length = Math.min(this.#options.words, words.length);
    print.fill(0xffffffff, EXACT_WORDS);
    for (let from = 0; from + length <= words.length; from++) {
      const run = hashWords(words, { from, to: from + length }) % 2 ** 32;
      for (let i = EXACT_WORDS; i < this.length; i++) {
        const value = mix32(run + Math.imul(i, 0x9e3779b1));
        if (value < print[i]) print[i] = value;
      }
    }
    return print;
  }

  /** Whether a row with this fingerprint is one that is remembered, or nearly. */
  find(print: Fingerprint): "exact duplicate" | "near duplicate" | null {
    if (this.#isKept(this.#exact.get(exactOf(print)) ?? -1)) return "exact duplicate";
    for (let band = 0; band < this.#bands; band++) {
      const row = this.#table[this.#slot(print, band)] - 1;
      if (this.#isKept(row) && this.#likeness(print, row) >= this.#options.near!) {
        return "near duplicate";
      }
    }
    return null;
  }

  /** Remembers a row; the oldest one is forgotten where there are too many. */
  add(print: Fingerprint): void {
    const place = this.#count % this.#options.window * this.length;
    if (this.#count >= this.#options.window) {
      const old = exactOf(this.#ring.subarray(place, place + this.length));
      // The same text may have been remembered again since.
      if (this.#exact.get(old) === this.#count - this.#options.window) this.#exact.delete(old);
    }
    this.#ring.set(print, place);
    this.#exact.set(exactOf(print), this.#count);
    for (let band = 0; band < this.#bands; band++) {
      this.#table[this.#slot(print, band)] = this.#count + 1;
    }
    this.#count++;
  }

  #isKept(row: number): boolean {
    return row >= 0 && row >= this.#count - this.#options.window;
  }

  #slot(print: Fingerprint, band: number): number {
    const from = EXACT_WORDS + band * this.#rowsPerBand;
    const value = hashWords(print, { from, to: from + this.#rowsPerBand });
    return mix32(value % 2 ** 32 + Math.imul(band, 0x85ebca6b)) & (this.#table.length - 1);
  }

  /** Share of equal values in both signatures, which estimates the likeness of the texts. */
  #likeness(print: Fingerprint, row: number): number {
    const place = row % this.#options.window * this.length;
    let same = 0;
    for (let i = EXACT_WORDS; i < this.length; i++) {
      if (this.#ring[place + i] === print[i]) same++;
    }
    return same / (this.length - EXACT_WORDS);
  }
}

function exactOf(print: Fingerprint): number {
  return print[0] * 2 ** 32 + print[1];
}

/**
 * Values in a band: as many as let a pair at the threshold meet in some band nine times of ten (with b
 * bands of r values that is 1 - (1 - t^r)^b).
 */
function bandRows(threshold: number, hashes: number): number {
  let rows = 1;
  while (
    rows < hashes / 2 && 1 - (1 - threshold ** (rows + 1)) ** Math.floor(hashes / (rows + 1)) >= 0.9
  ) rows++;
  return rows;
}
