/** Sums of two numbers. Level n: the longer one has n digits. */

import type { Family } from "../problem.ts";
import { Working } from "../working.ts";

export const addition: Family = {
  name: "addition",
  levels: 6,
  about: "sums of two whole numbers of up to six digits",
  make(draws, { difficulty, notation }) {
    const operands = [draws.withDigits(difficulty), draws.withDigits(draws.integer(1, difficulty))];
    const [a, b] = draws.shuffle(operands);
    const working = new Working(notation);
    const sum = working.add(a, b);
    return {
      // A sum is the same problem with its terms exchanged.
      key: `addition ${Math.min(a, b)} ${Math.max(a, b)}`,
      prompt: draws.phrase([
        `What is ${a} + ${b}?`,
        `${a} + ${b} = ?`,
        `Calculate ${a} + ${b}.`,
        `Add ${a} and ${b}.`,
        `How much is ${a} plus ${b}?`,
        `What is the sum of ${a} and ${b}?`,
      ]),
      steps: working.lines,
      reply: `${a} + ${b} = ${sum}.`,
      answer: String(sum),
    };
  },
};
