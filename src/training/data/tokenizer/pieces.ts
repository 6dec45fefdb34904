/** Counts the pieces that a pre-tokeniser cuts texts into: all that training merges needs of a corpus. */

import { PieceIterator, type Scanner } from "../../../tokenizer/scanners.ts";
import { CategoryTable } from "../../../tokenizer/unicode.ts";

/** Longer pieces are cut: no token is learnt from a line of ten thousand dashes. */
const MAX_PIECE = 512;

export class PieceCounter {
  /** Each piece with how often it occurred. */
  readonly counts = new Map<string, number>();
  readonly #scanners: readonly Scanner[];
  readonly #special: RegExp | null;
  readonly #categories = new CategoryTable();

  /** `special`: texts that are tokens already; pieces lie between them. */
  constructor(scanners: readonly Scanner[], special: readonly string[]) {
    this.#scanners = scanners;
    const literals = special.map((text) => RegExp.escape(text)).join("|");
    this.#special = literals === "" ? null : new RegExp(literals, "u");
  }

  add(text: string): void {
    const wellFormed = text.toWellFormed();
    const parts = this.#special === null ? [wellFormed] : wellFormed.split(this.#special);
    for (const part of parts) this.#addPart(part);
  }

  #addPart(text: string): void {
    const flags = new Uint8Array(text.length);
    this.#categories.fill(text, { from: 0, to: text.length, out: flags });
    const pieces = new PieceIterator({ text, flags }, this.#scanners);
    while (pieces.next()) {
      const piece = text.slice(pieces.start, Math.min(pieces.end, pieces.start + MAX_PIECE));
      this.counts.set(piece, (this.counts.get(piece) ?? 0) + 1);
    }
  }
}
