/** Differences of two numbers. Level n: the longer one has n digits; from 2 on some are below zero. */

import type { Family } from "../problem.ts";
import { Working } from "../working.ts";

/** How many of the problems from level 2 on have a negative answer. */
const NEGATIVE_SHARE = 0.1;

export const subtraction: Family = {
  name: "subtraction",
  levels: 6,
  about: "differences of two whole numbers of up to six digits, some below zero",
  make(draws, { difficulty, notation }) {
    const [x, y] = [draws.withDigits(difficulty), draws.withDigits(draws.integer(1, difficulty))];
    const isNegative = difficulty > 1 && draws.chance(NEGATIVE_SHARE);
    const [low, high] = [Math.min(x, y), Math.max(x, y)];
    const [a, b] = isNegative ? [low, high] : [high, low];
    const working = new Working(notation);
    const difference = working.subtract(a, b);
    return {
      key: `subtraction ${a} ${b}`,
      prompt: draws.phrase([
        `What is ${a} - ${b}?`,
        `${a} - ${b} = ?`,
        `Calculate ${a} - ${b}.`,
        `Subtract ${b} from ${a}.`,
        `Take ${b} away from ${a}. What is left?`,
        `How much is ${a} minus ${b}?`,
      ]),
      steps: working.lines,
      reply: `${a} - ${b} = ${difference}.`,
      answer: String(difference),
    };
  },
};
