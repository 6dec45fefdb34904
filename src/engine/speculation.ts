/**
 * How many tokens to guess, decided by what guessing has cost and brought so far in this process. A
 * guess costs a row of a step; a row is nearly free where steps wait for memory and dear where they
 * compute, so both are measured: milliseconds by rows, and how often guesses were right.
 */

/** Tokens guessed at once at most. */
export const MAX_DRAFT = 8;

/** Weight of the newest measurement in running means. */
const NEWEST = 0.1;

/** Where nothing pays at present, one step in so many is guessed all the same, to notice a change. */
const PROBE_EVERY = 64;

/** How often the guesses of one sequence have been right, as a running mean that starts hopeful. */
export class Acceptance {
  rate = 0.7;

  /** Of `drafted` guesses the first `accepted` were right; what lay behind the first wrong one says nothing. */
  add({ drafted, accepted }: { drafted: number; accepted: number }): void {
    for (let i = 0; i < accepted; i++) this.#note(1);
    if (accepted < drafted) this.#note(0);
  }

  #note(right: number): void {
    this.rate += NEWEST * (right - this.rate);
  }
}

/** What steps without prompts take, by their rows. */
export class StepCosts {
  readonly #milliseconds: (number | undefined)[] = [];
  #steps = 0;

  add({ rows, milliseconds }: { rows: number; milliseconds: number }): void {
    const known = this.#milliseconds[rows];
    this.#milliseconds[rows] = known === undefined
      ? milliseconds
      : known + NEWEST * (milliseconds - known);
  }

  /**
   * The number of guesses, up to MAX_DRAFT, that promises most tokens per millisecond for a sequence whose
   * guesses are right at this rate, in a step of `rows` rows besides; 0 where none pays. Now and then it
   * is a guess of a length that has not been measured, or that did not pay.
   */
  bestDraft({ rate, rows }: { rate: number; rows: number }): number {
    const base = this.#milliseconds[rows];
    if (base === undefined) return 0;
    this.#steps++;
    if (this.#steps % PROBE_EVERY === 0) return 1 + (this.#steps / PROBE_EVERY) % MAX_DRAFT;
    let best = { count: 0, gain: 1 / base };
    for (let count = 1; count <= MAX_DRAFT; count++) {
      const cost = this.#estimate(rows + count);
      if (cost === undefined) return count;
      const gain = expectedTokens(rate, count) / cost;
      // A tie is not worth the other sequences' time.
      if (gain > best.gain * 1.02) best = { count, gain };
    }
    return best.count;
  }

  /** Milliseconds of a step of so many rows: measured, or between measured neighbours. */
  #estimate(rows: number): number | undefined {
    const exact = this.#milliseconds[rows];
    if (exact !== undefined) return exact;
    const known = this.#milliseconds;
    let below = rows - 1;
    while (below > 0 && known[below] === undefined) below--;
    let above = rows + 1;
    while (above < known.length && known[above] === undefined) above++;
    const [low, high] = [known[below], known[above]];
    if (low === undefined || high === undefined) return undefined;
    return low + (high - low) * (rows - below) / (above - below);
  }
}

/** Tokens that a step brings when each of `count` guesses is right at this rate: the true one included. */
function expectedTokens(rate: number, count: number): number {
  let sum = 1;
  let chance = 1;
  for (let i = 0; i < count; i++) {
    chance *= rate;
    sum += chance;
  }
  return sum;
}
