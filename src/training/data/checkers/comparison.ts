/** Checks comparisons of numbers. */

import { numbersIn, plainAnswer, statedNumber } from "./answer_text.ts";
import { checkLine } from "./claims.ts";
import { compare, equal, parseRational } from "./rational.ts";
import type { Checker } from "./types.ts";

const WANTS_MOST = /\b(?:larger|largest|greater|bigger)\b/i;

export const comparison: Checker = {
  isRight(prompt, text) {
    const numbers = [...prompt.matchAll(/\d+(?:\.\d+)?/g)].map((match) => parseRational(match[0])!);
    const plain = plainAnswer(text);
    if (numbers.length < 2 || plain === null) return false;
    const wantsMost = WANTS_MOST.test(prompt);
    const sorted = [...numbers].sort(compare);
    const wanted = wantsMost ? sorted.at(-1)! : sorted[0];
    if (numbers.length === 2 && equal(numbers[0], numbers[1])) {
      return /\b(?:equal|same)\b/i.test(plain) && !/\bnot\b/i.test(plain);
    }
    if (/\b(?:not|equal|same)\b/i.test(plain)) return false;
    // `9.9 > 9.11` names both and is an answer all the same, where it holds.
    if (/[<>]/.test(plain) && numbersIn(plain).length === 2) return checkLine(plain).right === 1;
    const than =
      /^(?:the (?:number|answer) )?(\S+) is (larger|greater|bigger|smaller|less) than (\S+?)\.?$/i
        .exec(plain);
    if (than !== null) {
      const [first, second] = [parseRational(than[1]), parseRational(than[3])];
      if (first === null || second === null) return false;
      const isMore = WANTS_MOST.test(than[2]);
      return isMore === wantsMost && equal(first, wanted) && !equal(second, wanted) &&
        numbers.some((number) => equal(number, second));
    }
    const words = wantsMost ? /\b(?:smaller|smallest|less)\b/i : WANTS_MOST;
    if (words.test(plain)) return false;
    const different = numbersIn(plain);
    const stated = different.length === 1 ? different[0] : statedNumber(plain, "");
    return stated !== null && equal(stated, wanted);
  },
};
