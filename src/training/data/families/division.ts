/** Divisions: exact ones (levels 1, 2 and 4) and such with a remainder (3 and 5). */

import type { Family } from "../problem.ts";
import { Working } from "../working.ts";

/** Digits of divisor and largest quotient by level, and whether a remainder is asked for. */
const LEVELS = [
  { divisor: [2, 9], quotient: [1, 9], hasRemainder: false },
  { divisor: [2, 9], quotient: [10, 99], hasRemainder: false },
  { divisor: [3, 9], quotient: [2, 30], hasRemainder: true },
  { divisor: [2, 12], quotient: [100, 999], hasRemainder: false },
  { divisor: [11, 25], quotient: [5, 99], hasRemainder: true },
] as const;

export const division: Family = {
  name: "division",
  levels: LEVELS.length,
  about: "divisions of whole numbers, exact or with a remainder",
  make(draws, { difficulty, notation }) {
    const { divisor, quotient, hasRemainder } = LEVELS[difficulty - 1];
    const b = draws.integer(divisor[0], divisor[1]);
    const a = b * draws.integer(quotient[0], quotient[1]) +
      (hasRemainder ? draws.integer(0, b - 1) : 0);
    const working = new Working(notation);
    const result = working.divide(a, b);
    const remainder = hasRemainder ? ` remainder ${result.remainder}` : "";
    return {
      key: `division ${a} ${b}${hasRemainder ? " remainder" : ""}`,
      prompt: draws.phrase(
        hasRemainder
          ? [
            `Divide ${a} by ${b} and give the remainder.`,
            `What are the quotient and the remainder of ${a} / ${b}?`,
            `What is ${a} divided by ${b}, with remainder?`,
          ]
          : [
            `What is ${a} / ${b}?`,
            `What is ${a} ÷ ${b}?`,
            `Calculate ${a} / ${b}.`,
            `Divide ${a} by ${b}.`,
            `What is ${a} divided by ${b}?`,
            `How many times does ${b} fit into ${a}?`,
          ],
      ),
      steps: working.lines,
      reply: hasRemainder
        ? `${a} divided by ${b} is ${result.quotient}${remainder}.`
        : `${a} / ${b} = ${result.quotient}.`,
      answer: `${result.quotient}${remainder}`,
    };
  },
};
