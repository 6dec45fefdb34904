/**
 * Keeps evaluation problems out of a corpus: rows that share a run of words with a text of an evaluation
 * set (13 words after Brown et al. 2020, appendix C), or whose prompt is one of its prompts.
 */

import { hashText, hashWords } from "../hash.ts";
import { type Draft, promptOf } from "../rows.ts";
import { normalized, wordHashes } from "./words.ts";

export interface ContaminationOptions {
  /** Length of a shared run of words. */
  readonly words: number;
  /** Prompts shorter than `words` count as one run, if they have at least this many words. */
  readonly minWords: number;
}

/** What the evaluation sets hold; memory grows with them alone. */
export class Contamination {
  readonly #options: ContaminationOptions;
  readonly #prompts = new Set<number>();
  /** Hashes of runs by their length: most have `words` words, those of short texts fewer. */
  readonly #runs = new Map<number, Set<number>>();

  constructor(options: ContaminationOptions) {
    this.#options = options;
  }

  /** Adds a row of an evaluation set. */
  add(draft: Draft): void {
    const prompt = promptOf(draft);
    if (prompt !== "") this.#prompts.add(hashText(normalized(prompt)));
    for (const text of textsOf(draft)) {
      const words = wordHashes(text);
      const length = Math.min(this.#options.words, words.length);
      // Short answers are alike everywhere, short questions are not.
      const least = text === prompt ? this.#options.minWords : this.#options.words;
      if (length < least) continue;
      let runs = this.#runs.get(length);
      if (runs === undefined) this.#runs.set(length, runs = new Set());
      for (let from = 0; from + length <= words.length; from++) {
        runs.add(hashWords(words, { from, to: from + length }));
      }
    }
  }

  /** Why a row must not be trained on, or null. */
  fault(draft: Draft): string | null {
    const prompt = promptOf(draft);
    if (prompt !== "" && this.#prompts.has(hashText(normalized(prompt)))) {
      return "prompt of an evaluation set";
    }
    for (const text of textsOf(draft)) {
      const words = wordHashes(text);
      for (const [length, runs] of this.#runs) {
        for (let from = 0; from + length <= words.length; from++) {
          if (runs.has(hashWords(words, { from, to: from + length }))) {
            return "words of an evaluation set";
          }
        }
      }
    }
    return null;
  }
}

function textsOf(draft: Draft): string[] {
  return draft.kind === "text" ? [draft.text] : draft.messages.map(({ content }) => content);
}
