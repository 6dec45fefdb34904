/**
 * The tokens still in play while one token is chosen. Nothing here sorts a vocabulary: a border is found
 * by radix selection on the tokens' distances from the best. Tokens are ordered by that distance, equals
 * by their ids.
 */

import { FormatError, RequestError } from "../errors.ts";
import type { RandomBits } from "./random.ts";
import type { SamplingRule } from "./rule.ts";
import { LARGEST, partOf, settled, STEPS, weightOf } from "./weights.ts";

/** Bits of a distance that the second level of the selection looks at; the first has the rest. */
const LOW_BITS = 11;
const LOW = 1 << LOW_BITS;

/** Magnitudes of the best logit at which distances from it are the same with others settled or not. */
const PLAIN_FROM = 2 ** -30;
const PLAIN_TO = LARGEST / 2;

/**
 * Scratch for choosing one token from `vocabSize` logits; reused from token to token and shared by
 * the sequences of an engine.
 *
 * Two phases: after `load`, `logits` may be edited by token id. `scale` then turns them into distances
 * from the best one, and from there on filters shrink the list of kept tokens, always in ascending id.
 */
export class Candidates {
  readonly vocabSize: number;
  /** By token id. Belongs to the caller of `load`, and is overwritten. */
  logits: Float32Array = new Float32Array(0);
  /** Tokens kept. */
  count = 0;
  /** The kept tokens' ids and distances in steps. */
  readonly #ids: Int32Array;
  readonly #steps: Int32Array;
  readonly #weights = new Float64Array(STEPS / LOW);
  readonly #counts = new Int32Array(LOW);

  constructor(vocabSize: number) {
    this.vocabSize = vocabSize;
    this.#ids = new Int32Array(vocabSize);
    this.#steps = new Int32Array(vocabSize);
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
    return bestToken;
  }

  /** The most likely token after edits, the lowest id among equals. */
  best(): number {
    const token = this.#largest();
    if (token < 0) throw noneLeft();
    return this.#settle(token) ? this.#largest() : token;
  }

  /**
   * Begins the second phase: keeps the tokens at most `farthest` steps from the best one, of which there
   * are `scale` in a unit of logits. A token with the best logit is 0 steps from it, every other at
   * least 1.
   */
  scale({ best, scale, farthest }: { best: number; scale: number; farthest: number }): void {
    this.#settle(best);
    const logits = this.logits;
    const ids = this.#ids;
    const steps = this.#steps;
    const most = logits[best];
    let kept = 0;
    for (let token = 0; token < logits.length; token++) {
      const distance = Math.fround(Math.fround(most - logits[token]) * scale);
      if (distance > farthest) continue;
      ids[kept] = token;
      steps[kept++] = Math.ceil(distance);
    }
    this.count = kept;
  }

  /** Keeps the `k` most likely tokens; among equals at the border the lowest ids stay. */
  keepMostLikely(k: number): void {
    const count = this.count;
    if (k >= count) return;
    const steps = this.#steps;
    const counts = this.#counts.fill(0);
    for (let i = 0; i < count; i++) counts[steps[i] >>> LOW_BITS]++;
    let before = 0;
    let high = 0;
    while (before + counts[high] < k) before += counts[high++];
    const lows = this.#tally(high);
    let low = 0;
    while (before + lows[low] < k) before += lows[low++];
    this.#keep({ step: (high << LOW_BITS) + low, ties: k - before });
  }

  /**
   * Keeps the shortest list of most likely tokens whose weight reaches `share` (in 2^-32) of the weight of
   * what is kept so far; among equals at the border the lowest ids stay.
   */
  keepNucleus(share: number): void {
    const count = this.count;
    const steps = this.#steps;
    const weights = this.#weights.fill(0);
    for (let i = 0; i < count; i++) weights[steps[i] >>> LOW_BITS] += weightOf(steps[i]);
    let total = 0;
    for (let high = 0; high < weights.length; high++) total += weights[high];
    const target = Math.max(1, partOf(total, { part: BigInt(share), bits: 32n }));
    let before = 0;
    let high = 0;
    while (before + weights[high] < target) before += weights[high++];
    const lows = this.#tally(high);
    const first = high << LOW_BITS;
    let low = 0;
    while (true) {
      const next = before + lows[low] * weightOf(first + low);
      if (next >= target) break;
      before = next;
      low++;
    }
    const step = first + low;
    this.#keep({ step, ties: Math.ceil((target - before) / weightOf(step)) });
  }

  /** Draws a token by a rule, `best` being the most likely one. */
  choose({ best, rule, bits }: { best: number; rule: SamplingRule; bits: RandomBits }): number {
    this.scale({ best, ...rule });
    this.keepMostLikely(rule.topK);
    if (rule.share !== null) this.keepNucleus(rule.share);
    return this.draw(bits);
  }

  /** Kept tokens in ascending order; a copy. */
  kept(): number[] {
    return [...this.#ids.subarray(0, this.count)];
  }

  /** The kept token at which the running sum of weights passes the part of them that the bits stand for. */
  draw({ high, low }: RandomBits): number {
    const count = this.count;
    const steps = this.#steps;
    let total = 0;
    for (let i = 0; i < count; i++) total += weightOf(steps[i]);
    const target = partOf(total, { part: (BigInt(high) << 32n) | BigInt(low), bits: 64n });
    let index = 0;
    let sum = weightOf(steps[0]);
    while (sum <= target) sum += weightOf(steps[++index]);
    return this.#ids[index];
  }

  /** The token with the largest logit, -1 where all are excluded. */
  #largest(): number {
    const logits = this.logits;
    let best = -Infinity;
    let bestToken = -1;
    for (let token = 0; token < logits.length; token++) {
      if (logits[token] > best) {
        best = logits[token];
        bestToken = token;
      }
    }
    return bestToken;
  }

  /** Settles all logits if that could change their distances from the best one. Returns whether. */
  #settle(best: number): boolean {
    const logits = this.logits;
    const most = Math.abs(logits[best]);
    // Of others, what is small is lost in rounding, and what is large is far below.
    if (most >= PLAIN_FROM && most <= PLAIN_TO) return false;
    for (let token = 0; token < logits.length; token++) logits[token] = settled(logits[token]);
    return true;
  }

  /** Counts the kept tokens whose distance begins with these bits by the others. */
  #tally(high: number): Int32Array {
    const count = this.count;
    const steps = this.#steps;
    const counts = this.#counts.fill(0);
    for (let i = 0; i < count; i++) {
      if (steps[i] >>> LOW_BITS === high) counts[steps[i] & (LOW - 1)]++;
    }
    return counts;
  }

  /** Keeps the tokens nearer than `step`, and the first `ties` that are as far. */
  #keep({ step, ties }: { step: number; ties: number }): void {
    const count = this.count;
    const ids = this.#ids;
    const steps = this.#steps;
    let tiesLeft = ties;
    let kept = 0;
    for (let i = 0; i < count; i++) {
      const own = steps[i];
      if (own > step || (own === step && tiesLeft-- <= 0)) continue;
      ids[kept] = ids[i];
      steps[kept++] = own;
    }
    this.count = kept;
  }
}

/** The error for a row in which some logit is no number, at which place is not known. */
export function notFinite(logits?: Float32Array): FormatError {
  const must = "finite (the model's weights may be damaged)";
  if (logits === undefined) {
    return FormatError.of("choose a token", "a logit", "NaN or infinite", must);
  }
  const token = logits.findIndex((logit) => !Number.isFinite(logit));
  return FormatError.of("choose a token", `the logit of token ${token}`, logits[token], must);
}

/** The error for a row of which every token is excluded. */
export function noneLeft(): RequestError {
  return new RequestError(
    "cannot choose a token: the bias of every token is -Infinity, one must be finite",
    { param: "logit_bias" },
  );
}
