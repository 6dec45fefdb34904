/**
 * The tokens still in play while one token is chosen, and the selection that top_k and top_p share.
 * Nothing here sorts a vocabulary: a threshold is found by radix selection on the logits' bits.
 */

import { FormatError, RequestError } from "../errors.ts";
import { expNonPositive } from "./exp.ts";

/** Radix digits of a 31-bit key: shift and width of each level, best logits first. */
const LEVELS = [{ shift: 20, bits: 11 }, { shift: 10, bits: 10 }, { shift: 0, bits: 10 }] as const;

/**
 * Scratch for choosing one token from `vocabSize` logits; reused from token to token and shared by
 * the sequences of an engine.
 *
 * Two phases: after `load`, processors edit `logits` by token id. `scale` then shifts the best logit to
 * 0 and divides by the temperature; from there on logits are at most 0, their float bits order them, and
 * filters shrink the list of kept tokens (always in ascending id).
 */
export class Candidates {
  readonly vocabSize: number;
  /** By token id. Belongs to the caller of `load`, and is overwritten. */
  logits: Float32Array;
  /** Tokens kept. */
  count: number;
  #bits: Int32Array;
  /** The first `count` entries, ascending, unless every token is kept. */
  readonly #ids: Int32Array;
  readonly #weights: Float64Array;
  readonly #histogram = new Float64Array(1 << LEVELS[0].bits);

  constructor(vocabSize: number) {
    this.vocabSize = vocabSize;
    this.logits = new Float32Array(0);
    this.#bits = new Int32Array(0);
    this.count = 0;
    this.#ids = new Int32Array(vocabSize);
    this.#weights = new Float64Array(vocabSize);
  }

  /**
   * Takes a row of raw logits, which it will overwrite, and returns the most likely token (the lowest id
   * among equals). Throws FormatError where a logit is NaN or infinite.
   */
  load(logits: Float32Array): number {
    if (logits.length !== this.vocabSize) {
      throw FormatError.of(
        "choose a token",
        "the number of logits",
        logits.length,
        `${this.vocabSize} (the vocabulary)`,
      );
    }
    let best = -Infinity;
    let bestToken = 0;
    let defects = 0;
    for (let token = 0; token < logits.length; token++) {
      const logit = logits[token];
      // 0 for finite values, NaN for the others.
      defects += logit - logit;
      if (logit > best) {
        best = logit;
        bestToken = token;
      }
    }
    if (defects !== 0) throw notFinite(logits);
    this.logits = logits;
    this.#bits = new Int32Array(logits.buffer, logits.byteOffset, logits.length);
    this.count = logits.length;
    return bestToken;
  }

  /** The most likely token after edits, the lowest id among equals. */
  best(): number {
    const logits = this.logits;
    let best = -Infinity;
    let bestToken = -1;
    for (let token = 0; token < logits.length; token++) {
      if (logits[token] > best) {
        best = logits[token];
        bestToken = token;
      }
    }
    if (bestToken < 0) {
      throw new RequestError(
        "cannot choose a token: the bias of every token is -Infinity, one must be finite",
        { param: "logit_bias" },
      );
    }
    return bestToken;
  }

  /** logits = (logits - max) / temperature, all at most 0. `temperature` must be positive. */
  scale(temperature: number): void {
    const logits = this.logits;
    const max = logits[this.best()];
    for (let token = 0; token < logits.length; token++) {
      logits[token] = (logits[token] - max) / temperature;
    }
  }

  /** Keeps tokens whose scaled logit is at least `threshold` (at most 0). */
  keepAtLeast(threshold: number): void {
    const key = new Int32Array(Float32Array.of(threshold).buffer)[0] & 0x7fffffff;
    this.#keep(key, Infinity);
  }

  /** Keeps the `k` most likely tokens; among equals at the border the lowest ids stay. */
  keepMostLikely(k: number): void {
    if (k >= this.count) return;
    this.#keepPrefix(k, false);
  }

  /**
   * Keeps the shortest list of most likely tokens whose probability (renormalised over what is kept so
   * far) reaches `share`, below 1; among equals at the border the lowest ids stay.
   */
  keepNucleus(share: number): void {
    this.#keepPrefix(share, true);
  }

  /** Kept tokens in ascending order; a copy. */
  kept(): number[] {
    const tokens: number[] = [];
    for (let i = 0; i < this.count; i++) tokens.push(this.#id(i));
    return tokens;
  }

  /** The kept token at which the running sum of probabilities passes `uniform`, in [0, 1). */
  draw(uniform: number): number {
    const { logits, count } = this;
    const weights = this.#weights;
    const ids = this.#ids;
    const whole = count === this.vocabSize;
    let total = 0;
    for (let i = 0; i < count; i++) {
      const weight = expNonPositive(logits[whole ? i : ids[i]]);
      weights[i] = weight;
      total += weight;
    }
    const target = uniform * total;
    let sum = 0;
    let last = 0;
    for (let i = 0; i < count; i++) {
      if (weights[i] === 0) continue;
      sum += weights[i];
      last = i;
      if (sum > target) break;
    }
    return this.#id(last);
  }

  #id(index: number): number {
    return this.count === this.vocabSize ? index : this.#ids[index];
  }

  /**
   * Keeps tokens with a smaller key, and the first `ties` with this one. A key is the bits of a scaled
   * logit without the sign: ascending keys are descending logits.
   */
  #keep(key: number, ties: number): void {
    const keys = this.#bits;
    const ids = this.#ids;
    const count = this.count;
    const whole = count === this.vocabSize;
    let kept = 0;
    let tiesLeft = ties;
    for (let i = 0; i < count; i++) {
      const token = whole ? i : ids[i];
      const own = keys[token] & 0x7fffffff;
      if (own > key) continue;
      if (own === key && tiesLeft-- <= 0) continue;
      ids[kept++] = token;
    }
    this.count = kept;
  }

  /**
   * Keeps the shortest prefix, by descending logit, whose mass reaches the target: `amount` tokens, or
   * `amount` of the total probability. Each level of digits drops the tokens that are certainly out, so
   * the second and third look at few.
   */
  #keepPrefix(amount: number, byProbability: boolean): void {
    let target = amount;
    /** Mass of the tokens that are certainly kept. */
    let mass = 0;
    let prefix = 0;
    for (const [level, { shift, bits }] of LEVELS.entries()) {
      const size = 1 << bits;
      if (byProbability) this.#weigh(shift, { bits, prefix });
      else this.#tally(shift, { bits, prefix });
      const histogram = this.#histogram;
      if (level === 0 && byProbability) {
        let total = 0;
        for (let digit = 0; digit < size; digit++) total += histogram[digit];
        target = amount * total;
      }
      // Sums of a lower level may fall short of the target by rounding: the last filled digit stands in.
      let found = 0;
      let reached = mass;
      for (let digit = 0; digit < size; digit++) {
        if (histogram[digit] === 0) continue;
        found = digit;
        mass = reached;
        reached += histogram[digit];
        if (reached >= target) break;
      }
      prefix = (prefix << bits) | found;
      if (shift > 0) this.#keep(((prefix << shift) | ((1 << shift) - 1)) >>> 0, Infinity);
    }
    const logit = new Float32Array(Int32Array.of(prefix).buffer)[0];
    const weight = byProbability ? expNonPositive(-logit) : 1;
    this.#keep(prefix, Math.max(1, Math.ceil((target - mass) / weight)));
  }

  /** histogram[digit] = kept tokens with these leading digits. */
  #tally(shift: number, { bits, prefix }: { bits: number; prefix: number }): void {
    const histogram = this.#histogram.fill(0);
    const keys = this.#bits;
    const ids = this.#ids;
    const count = this.count;
    const whole = count === this.vocabSize;
    const mask = (1 << bits) - 1;
    for (let i = 0; i < count; i++) {
      const key = keys[whole ? i : ids[i]] & 0x7fffffff;
      if (key >>> (shift + bits) === prefix) histogram[(key >>> shift) & mask]++;
    }
  }

  /** histogram[digit] = weight of the kept tokens with these leading digits. */
  #weigh(shift: number, { bits, prefix }: { bits: number; prefix: number }): void {
    const histogram = this.#histogram.fill(0);
    const keys = this.#bits;
    const ids = this.#ids;
    const logits = this.logits;
    const count = this.count;
    const whole = count === this.vocabSize;
    const mask = (1 << bits) - 1;
    for (let i = 0; i < count; i++) {
      const token = whole ? i : ids[i];
      const key = keys[token] & 0x7fffffff;
      if (key >>> (shift + bits) !== prefix) continue;
      histogram[(key >>> shift) & mask] += expNonPositive(logits[token]);
    }
  }
}

function notFinite(logits: Float32Array): FormatError {
  const token = logits.findIndex((logit) => !Number.isFinite(logit));
  return FormatError.of(
    "choose a token",
    `the logit of token ${token}`,
    logits[token],
    "finite (the model's weights may be damaged)",
  );
}
