/**
 * How many streams of weights a decode kernel reads side by side. Processors differ in how far ahead
 * they fetch: one stream is twice as fast as four on some, half as fast on others, and the result is
 * the same to the bit. So the first decode steps try each in turn and the fastest stays.
 */

const COUNTS = [1, 4] as const;
const TRIALS = 2;

export class StreamChoice {
  readonly #set: (streams: number) => void;
  readonly #best: number[] = COUNTS.map(() => Infinity);
  /** Steps seen; the first one warms up caches and the compiler. */
  #steps = 0;

  constructor(set: (streams: number) => void) {
    this.#set = set;
    set(COUNTS[0]);
  }

  /** Takes the time of a decode step and sets up the next one. */
  measured(milliseconds: number): void {
    const trial = this.#steps - 1;
    if (trial >= TRIALS * COUNTS.length) return;
    this.#steps += 1;
    if (trial >= 0) {
      const index = trial % COUNTS.length;
      this.#best[index] = Math.min(this.#best[index], milliseconds);
    }
    const next = trial + 1;
    if (next < TRIALS * COUNTS.length) this.#set(COUNTS[next % COUNTS.length]);
    else this.#set(COUNTS[this.#best.indexOf(Math.min(...this.#best))]);
  }
}
