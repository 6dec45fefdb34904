/**
 * The numbers that a step may use: those of the prompt, what earlier steps worked out, parts of either
 * that written arithmetic takes apart, and a few constants. Each comes with its origins: the set of the
 * prompt's numbers that went into it, a bit for each.
 */

import { numbersIn } from "../data/checkers/answer_text.ts";
import { multiply, type Rational, rational } from "../data/checkers/rational.ts";

export type Origins = number;

/** Further different numbers of a prompt share the last bit. */
const MAX_BITS = 30;
/** Longer numbers are not taken apart. */
const MAX_DIGITS = 12;

/** What anyone may use without saying where from: small counts, powers of ten, parts of time. */
const CONSTANTS = [0, 1, 2, 3, 4, 5, 7, 10, 12, 30, 52, 100, 365, 1000, 3600];
/** The same, and clocks take them off digit by digit. */
const CLOCK_CONSTANTS = [24, 60];

/** Numbers that words of a prompt stand for. */
const WORDS: Readonly<Record<string, readonly [over: number, under: number][]>> = {
  half: [[1, 2]],
  third: [[1, 3], [3, 1]],
  quarter: [[1, 4], [4, 1]],
  thrice: [[3, 1]],
  triple: [[3, 1]],
  three: [[3, 1]],
  four: [[4, 1]],
  five: [[5, 1]],
  six: [[6, 1]],
  eight: [[8, 1]],
  nine: [[9, 1]],
  eleven: [[11, 1]],
};

export function keyOf({ over, under }: Rational): string {
  return under === 1n ? String(over) : `${over}/${under}`;
}

export class KnownNumbers {
  readonly #whole = new Map<string, Origins>();
  /** Digits, places, beginnings and ends of whole numbers. */
  readonly #parts = new Map<string, Origins>();
  readonly #prompt = new Set<string>();

  constructor(prompt: string) {
    for (const value of CONSTANTS) this.#whole.set(String(value), 0);
    for (const value of CLOCK_CONSTANTS) this.add(rational(BigInt(value)), 0);
    for (const match of prompt.matchAll(/\p{L}+/gu)) {
      const word = match[0].toLowerCase();
      if (!Object.hasOwn(WORDS, word)) continue;
      for (const [over, under] of WORDS[word]) {
        this.#merge(this.#whole, keyOf(rational(BigInt(over), BigInt(under))), 0);
      }
    }
    const isPercent = prompt.includes("%") || /\bpercent/i.test(prompt);
    for (const value of numbersIn(prompt)) {
      const key = keyOf(value);
      const bit = 1 << Math.min(this.#prompt.size, MAX_BITS - 1);
      const origins = this.#prompt.has(key) ? this.#whole.get(key)! : bit;
      this.#prompt.add(key);
      this.add(value, origins);
      if (isPercent) this.add(multiply(value, rational(1n, 100n)), origins);
    }
  }

  /** How many different numbers the prompt has. */
  get asked(): number {
    return this.#prompt.size;
  }

  isAsked(value: Rational): boolean {
    return this.#prompt.has(keyOf(value));
  }

  /** A number that is known from here on, by what it was made of. */
  add(value: Rational, origins: Origins): void {
    this.#merge(this.#whole, keyOf(value), origins);
    const digits = String(value.over < 0n ? -value.over : value.over);
    if (value.over < 0n) this.#merge(this.#whole, keyOf({ ...value, over: -value.over }), origins);
    if (value.under !== 1n || digits.length > MAX_DIGITS) return;
    for (let i = 0; i < digits.length; i++) {
      const digit = digits[i];
      this.#merge(this.#parts, digit, origins);
      this.#merge(
        this.#parts,
        String(BigInt(digit) * 10n ** BigInt(digits.length - 1 - i)),
        origins,
      );
      this.#merge(this.#parts, digits.slice(0, i + 1), origins);
      this.#merge(this.#parts, String(BigInt(digits.slice(i))), origins);
    }
  }

  /** The origins of a number that a step uses; undefined where it comes from nowhere. */
  originsOf(value: Rational): Origins | undefined {
    const key = keyOf(value);
    const known = this.#whole.get(key);
    const part = this.#parts.get(key);
    if (known !== undefined || part !== undefined) return (known ?? 0) | (part ?? 0);
    if (value.under !== 1n || value.over < 10n || value.over > 999_999n) return undefined;
    // A digit behind what a division left over, or behind the ten that a subtraction borrows.
    const rest = this.#whole.get(String(value.over / 10n));
    const digit = this.#parts.get(String(value.over % 10n));
    return rest === undefined || digit === undefined ? undefined : rest | digit;
  }

  #merge(map: Map<string, Origins>, key: string, origins: Origins): void {
    map.set(key, (map.get(key) ?? 0) | origins);
  }
}
