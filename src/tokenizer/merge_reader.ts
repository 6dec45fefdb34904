/** Turns merge rules written as texts into rules on ids, checking each of them. */

import { FormatError } from "../errors.ts";
import { decodeAlphabetInPlace, writeAlphabetBytes } from "./byte_alphabet.ts";
import { Merges } from "./merges.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** Ranks must stay below this, the limit of the merge heap's keys. */
const MAX_MERGES = 2 ** 21;

const SPACE = 0x20;

export class MergeReader {
  readonly #action: string;
  readonly #vocabulary: Vocabulary;
  readonly #merges: Merges;
  #bytes = new Uint8Array(256);
  #rank = 0;

  constructor(options: { action: string; vocabulary: Vocabulary; count: number }) {
    this.#action = options.action;
    this.#vocabulary = options.vocabulary;
    if (options.count > MAX_MERGES) {
      throw this.#error("the number of merges", options.count, `at most ${MAX_MERGES}`);
    }
    this.#merges = new Merges(options.count);
  }

  /** Adds the next rule, two texts with one space between them. */
  addLine(line: unknown): void {
    const space = typeof line === "string" ? line.indexOf(" ", 1) : -1;
    if (typeof line !== "string" || space < 0) {
      throw this.#error(this.#name(), JSON.stringify(line), "two texts with a space between them");
    }
    this.#add(line, { from: 0, to: space }, { from: space + 1, to: line.length });
  }

  /** Adds the next rule, an array of two texts. */
  addPair(left: unknown, right: unknown): void {
    if (typeof left !== "string" || typeof right !== "string") {
      throw this.#error(this.#name(), JSON.stringify([left, right]), "two texts");
    }
    const joined = left + right;
    const { length } = left;
    this.#add(joined, { from: 0, to: length }, { from: length, to: joined.length });
  }

  finish(): Merges {
    return this.#merges;
  }

  /**
   * Adds the next rule from a line of UTF-8, which is overwritten. `text` gives the line for messages.
   */
  addUtf8(line: Uint8Array, length: number, text: () => unknown): void {
    const space = line.subarray(0, length).indexOf(SPACE, 1);
    if (space < 0) return this.addLine(text());
    const middle = decodeAlphabetInPlace(line, { from: 0, to: space, offset: 0 });
    const end = middle < 0
      ? -1
      : decodeAlphabetInPlace(line, { from: space + 1, to: length, offset: middle });
    this.#addBytes(line, { middle, end }, text);
  }

  #add(text: string, left: TextRange, right: TextRange): void {
    if (text.length > this.#bytes.length) this.#bytes = new Uint8Array(2 * text.length);
    const bytes = this.#bytes;
    const middle = writeAlphabetBytes(text, { out: bytes, offset: 0, ...left });
    const end = middle < 0
      ? -1
      : writeAlphabetBytes(text, { out: bytes, offset: middle, ...right });
    this.#addBytes(bytes, { middle, end }, () => text);
  }

  /** Adds the rule that joins bytes [0, middle) and [middle, end); -1 where they are no tokens. */
  #addBytes(
    bytes: Uint8Array,
    range: { middle: number; end: number },
    text: () => unknown,
  ): void {
    const { middle, end } = range;
    const leftId = end < 0 ? -1 : this.#vocabulary.find(bytes, 0, middle);
    const rightId = end < 0 ? -1 : this.#vocabulary.find(bytes, middle, end);
    const mergedId = end < 0 ? -1 : this.#vocabulary.find(bytes, 0, end);
    if (leftId < 0 || rightId < 0 || mergedId < 0) {
      const must = "two tokens of the vocabulary that together make a third";
      throw this.#error(this.#name(), JSON.stringify(text()), must);
    }
    if (!this.#merges.add(leftId, rightId, mergedId)) {
      throw this.#error(this.#name(), JSON.stringify(text()), "given once");
    }
    this.#rank++;
  }

  #name(): string {
    return `merge ${this.#rank}`;
  }

  #error(what: string, is: unknown, must: string): FormatError {
    return FormatError.of(this.#action, what, is, must);
  }
}

interface TextRange {
  readonly from: number;
  readonly to: number;
}
