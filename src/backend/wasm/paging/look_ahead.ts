/**
 * Whether fetching experts ahead pays. It costs a gate's product and reads that may be of no use; it
 * brings reads that are done while others compute. Which is more depends on the routing, the disk or
 * network, and on who else uses the cores, so blocks of decode steps with and without take turns, and
 * the faster way stays until the next trial.
 */

/** Steps of a block, and blocks of a trial, which begins without. */
const BLOCK = 16;
const BLOCKS = 4;
/** Steps from one trial to the next. */
const PERIOD = 1024;

export class LookAheadChoice {
  readonly #always: boolean | undefined;
  #step = 0;
  #sums = { on: 0, off: 0 };
  #chosen = true;

  /** `always`: no trials, on or off. */
  constructor(always?: boolean) {
    this.#always = always;
  }

  /** Whether the present step looks ahead. */
  get on(): boolean {
    if (this.#always !== undefined) return this.#always;
    if (this.#step >= BLOCK * BLOCKS) return this.#chosen;
    return Math.floor(this.#step / BLOCK) % 2 === 1;
  }

  /** Takes the time of a decode step. */
  measured(milliseconds: number): void {
    if (this.#always !== undefined) return;
    // The first steps of a block still live on what the block before has left.
    if (this.#step < BLOCK * BLOCKS && this.#step % BLOCK >= BLOCK / 4) {
      this.#sums[this.on ? "on" : "off"] += milliseconds;
    }
    this.#step += 1;
    if (this.#step === BLOCK * BLOCKS) {
      this.#chosen = this.#sums.on < this.#sums.off;
      this.#sums = { on: 0, off: 0 };
    } else if (this.#step === PERIOD) {
      this.#step = 0;
    }
  }
}
