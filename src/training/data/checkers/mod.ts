/** The checkers by family, and the verdict on a whole answer. */

import * as arithmetic from "./arithmetic.ts";
import { checkLine, type LineVerdict } from "./claims.ts";
import { time } from "./clock.ts";
import { comparison } from "./comparison.ts";
import { countdown } from "./countdown.ts";
import { ordering } from "./ordering.ts";
import { outside } from "./outside.ts";
import { units } from "./quantities.ts";
import { strings } from "./strings.ts";
import { syllogism } from "./syllogism.ts";
import type { Checker } from "./types.ts";
import { wordProblem } from "./word_problem.ts";

export type { Checker, LineVerdict };

const CHECKERS: ReadonlyMap<string, Checker> = new Map(Object.entries({
  ...arithmetic,
  comparison,
  units,
  time,
  word_problem: wordProblem,
  countdown,
  ordering,
  syllogism,
  strings,
  outside,
}));

export const FAMILY_NAMES: readonly string[] = Object.freeze([...CHECKERS.keys()]);

/** The checker of a family, or undefined where there is none of that name. */
export function checkerOf(family: string): Checker | undefined {
  return CHECKERS.get(family);
}

/** The claims of all lines of a solution: those of numbers and letters, and those about the prompt. */
export function checkSolution(
  family: string,
  solution: { prompt: string; lines: readonly string[] },
): LineVerdict {
  const checker = checkerOf(family);
  let right = 0;
  const wrong: string[] = [];
  for (const line of solution.lines) {
    const own = checker?.checkLine?.(solution.prompt, line) ?? null;
    for (const verdict of own === null ? [checkLine(line)] : [own]) {
      right += verdict.right;
      wrong.push(...verdict.wrong);
    }
  }
  return { right, wrong };
}
