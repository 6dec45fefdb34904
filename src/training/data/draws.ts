/** Random choices of the generators, each stream a function of its name alone. */

import { Xoshiro128 } from "../../sampling/random.ts";
import { hashText } from "./hash.ts";

/**
 * How problems are put: in one of several phrasings with a sentence for an answer, as short as can be, or
 * in full but as people type.
 */
export const WORDINGS = ["full", "short", "typed"] as const;
export type Wording = typeof WORDINGS[number];

/** Draws from a stream named by text: `7/addition/12` is problem 12 of a family under seed 7. */
export class Draws {
  readonly #random: Xoshiro128;
  readonly #wording: Wording;

  constructor(name: string, { wording = "full" }: { wording?: Wording } = {}) {
    this.#random = new Xoshiro128(hashText(name));
    this.#wording = wording;
  }

  /** A whole number of [min, max]. */
  integer(min: number, max: number): number {
    return min + Math.floor(this.#random.next() * (max - min + 1));
  }

  /** A whole number of exactly `digits` digits; one digit includes 0 and 1. */
  withDigits(digits: number): number {
    return digits === 1 ? this.integer(0, 9) : this.integer(10 ** (digits - 1), 10 ** digits - 1);
  }

  chance(probability: number): boolean {
    return this.#random.next() < probability;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.integer(0, list.length - 1)];
  }

  /** One of several ways to say the same. */
  phrase(list: readonly string[]): string {
    if (this.#wording !== "short") return this.pick(list);
    return list.reduce((shortest, text) => text.length < shortest.length ? text : shortest);
  }

  /** `count` different elements, in random order. */
  sample<T>(list: readonly T[], count: number): T[] {
    const rest = [...list];
    const taken: T[] = [];
    while (taken.length < count) taken.push(...rest.splice(this.integer(0, rest.length - 1), 1));
    return taken;
  }

  shuffle<T>(list: readonly T[]): T[] {
    return this.sample(list, list.length);
  }
}
