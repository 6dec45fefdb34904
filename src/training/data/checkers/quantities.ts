/** Checks units: amounts are brought to the smallest unit in which the problem speaks. */

import { boxedAnswer, plainAnswer } from "./answer_text.ts";
import type { Checker } from "./types.ts";

/** Its kind and its size in the kind's smallest unit. */
type Unit = readonly [kind: string, size: number];

function spelled(names: string, unit: Unit): [string, Unit][] {
  return names.split(" ").map((name) => [name, unit]);
}

/** Every way of writing a unit. */
export const UNITS: ReadonlyMap<string, Unit> = new Map([
  ...spelled("km kilometer kilometers", ["length", 1_000_000]),
  ...spelled("m meter meters", ["length", 1000]),
  ...spelled("cm centimeter centimeters", ["length", 10]),
  ...spelled("mm millimeter millimeters", ["length", 1]),
  ...spelled("kg kilogram kilograms", ["mass", 1000]),
  ...spelled("g gram grams", ["mass", 1]),
  ...spelled("l liter liters", ["volume", 1000]),
  ...spelled("ml milliliter milliliters", ["volume", 1]),
  ...spelled("dollar dollars", ["money", 100]),
  ...spelled("cent cents", ["money", 1]),
]);

interface Amount {
  readonly count: number;
  readonly unit: string;
}

function amountsIn(text: string): Amount[] {
  return [...text.matchAll(/(?<![\d.])(\d+) ([a-z]+)/gi)]
    .map((match) => ({ count: Number(match[1]), unit: match[2].toLowerCase() }))
    .filter(({ unit }) => UNITS.has(unit));
}

function sizeOf({ count, unit }: Amount): number {
  return count * UNITS.get(unit)![1];
}

function totalOf(amounts: readonly Amount[]): number {
  return amounts.reduce((sum, amount) => sum + sizeOf(amount), 0);
}

/** The units named in words, without a number in front: what the answer has to be in. */
function wantedUnits(prompt: string): string[] {
  const names = [...prompt.matchAll(/(?<!\d )\b([a-z]{3,})\b/gi)].map((match) =>
    match[1].toLowerCase()
  );
  return names.filter((name) => UNITS.has(name));
}

export const units: Checker = {
  isRight(prompt, text) {
    const plain = plainAnswer(text);
    if (plain === null) return false;
    const asked = amountsIn(prompt);
    if (asked.length === 0) return false;
    const takesAway = /\bsubtract\b| - /i.test(prompt);
    const total = takesAway ? Math.abs(sizeOf(asked[0]) - totalOf(asked.slice(1))) : totalOf(asked);
    const wanted = wantedUnits(prompt);
    const boxed = boxedAnswer(plain);
    if (boxed === null || wanted.length === 0) return false;
    const stated = amountsIn(boxed ?? plain.replace(/^.*\b(?:are|is|=) /i, ""));
    const sizes = wanted.map((name) => UNITS.get(name)!);
    if (sizes.length === 1) {
      const [amount, ...others] = stated;
      return amount !== undefined && others.length === 0 && sizeOf(amount) === total &&
        UNITS.get(amount.unit)![0] === sizes[0][0] && UNITS.get(amount.unit)![1] === sizes[0][1];
    }
    // Whole large ones and what remains of them.
    const [large, small, ...others] = stated;
    if (large === undefined || small === undefined || others.length > 0) return false;
    const [whole, part] = [UNITS.get(large.unit)!, UNITS.get(small.unit)!];
    return whole[1] === sizes[0][1] && part[1] === sizes[1][1] && whole[0] === sizes[0][0] &&
      sizeOf(large) + sizeOf(small) === total && sizeOf(small) < whole[1];
  },
};
