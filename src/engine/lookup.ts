/**
 * Prompt look-up: the guess that what followed the last two tokens before will follow them again
 * (Saxena 2023, "Prompt Lookup Decoding"). Answers that quote their prompt, edit code or repeat
 * themselves are guessed well; others are not guessed at all.
 */

/** The tokens of one sequence, indexed by pairs. */
export class PairIndex {
  readonly #vocabSize: number;
  readonly #tokens: number[];
  /** Where a pair was followed last: the index behind it. */
  readonly #followers = new Map<number, number>();

  constructor(tokens: readonly number[], { vocabSize }: { vocabSize: number }) {
    this.#vocabSize = vocabSize;
    this.#tokens = [];
    for (const token of tokens) this.push(token);
  }

  push(token: number): void {
    const tokens = this.#tokens;
    const end = tokens.length;
    // Only now is it known what follows the pair before.
    if (end >= 2) this.#followers.set(this.#pairBefore(end), end);
    tokens.push(token);
  }

  /** What followed the sequence's last two tokens when they occurred before; `most` tokens, or none. */
  guess(most: number): number[] {
    const end = this.#tokens.length;
    const start = end < 2 ? undefined : this.#followers.get(this.#pairBefore(end));
    if (start === undefined) return [];
    // Behind the end the guess itself goes on, so that what repeats is guessed to go on repeating.
    const guess: number[] = [];
    for (let i = start; i < start + most; i++) {
      guess.push(i < end ? this.#tokens[i] : guess[i - end]);
    }
    return guess;
  }

  #pairBefore(end: number): number {
    return this.#tokens[end - 2] * this.#vocabSize + this.#tokens[end - 1];
  }
}
