/** Products of two numbers, from the small tables to three digits by two. */

import type { Draws } from "../draws.ts";
import type { Family } from "../problem.ts";
import { Working } from "../working.ts";

/** Digits of the two factors by level. */
const DIGITS = [[1, 1], [2, 1], [3, 1], [2, 2], [3, 2]] as const;

function factors(draws: Draws, difficulty: number): number[] {
  const [first, second] = DIGITS[difficulty - 1];
  return draws.shuffle([draws.withDigits(first), draws.withDigits(second)]);
}

export const multiplication: Family = {
  name: "multiplication",
  levels: DIGITS.length,
  about: "products of two whole numbers, at most three digits by two",
  make(draws, { difficulty, notation }) {
    const [a, b] = factors(draws, difficulty);
    const working = new Working(notation);
    const product = working.multiply(a, b);
    return {
      key: `multiplication ${Math.min(a, b)} ${Math.max(a, b)}`,
      prompt: draws.phrase([
        `What is ${a} * ${b}?`,
        `What is ${a} × ${b}?`,
        `Calculate ${a} * ${b}.`,
        `Multiply ${a} by ${b}.`,
        `How much is ${a} times ${b}?`,
        `What is the product of ${a} and ${b}?`,
      ]),
      steps: working.lines,
      reply: `${a} * ${b} = ${product}.`,
      answer: String(product),
    };
  },
};
