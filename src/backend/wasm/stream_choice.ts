/**
 * How many streams of weights a decode kernel reads side by side. Processors differ in how far ahead
 * they fetch: one stream is twice as fast as four on some, half as fast on others, and the result is
 * the same to the bit. So the first decode steps try each in turn and the fastest stays. A busy
 * machine can make any step look slow, hence the choice is made anew now and then.
 */

const COUNTS = [1, 4] as const;
const TRIALS = 3;
/** Decode steps from one choice to the next. */
const PERIOD = 1000;

export class StreamChoice {
  readonly #set: (streams: number) => void;
  readonly #best: number[] = COUNTS.map(() => Infinity);
  /** Steps of this period; before the first one caches and compiler are cold. */
  #step = -1;

  /** `set` is told the number of streams for the steps that follow. */
  constructor(set: (streams: number) => void) {
    this.#set = set;
    set(COUNTS[0]);
  }

  /** Takes the time of a decode step and sets up the next one. */
  measured(milliseconds: number): void {
    const trials = TRIALS * COUNTS.length;
    if (this.#step >= 0 && this.#step < trials) {
      const index = this.#step % COUNTS.length;
      this.#best[index] = Math.min(this.#best[index], milliseconds);
    }
    this.#step += 1;
    if (this.#step < trials) {
      this.#set(COUNTS[this.#step % COUNTS.length]);
    } else if (this.#step === trials) {
      this.#set(COUNTS[this.#best.indexOf(Math.min(...this.#best))]);
    } else if (this.#step === PERIOD) {
      this.#step = 0;
      this.#best.fill(Infinity);
      this.#set(COUNTS[0]);
    }
  }
}
