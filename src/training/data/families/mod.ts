/** The families, and problem i of one as a function of seed, family and i. */

import { Draws, type Wording } from "../draws.ts";
import type { Family, Problem } from "../problem.ts";
import { asTyped } from "../typed.ts";
import type { Notation } from "../working.ts";
import { addition } from "./addition.ts";
import { comparison } from "./comparison.ts";
import { countdown } from "./countdown.ts";
import { division } from "./division.ts";
import { expression } from "./expression.ts";
import { multiplication } from "./multiplication.ts";
import { ordering } from "./ordering.ts";
import { outside } from "./outside.ts";
import { strings } from "./strings.ts";
import { subtraction } from "./subtraction.ts";
import { syllogism } from "./syllogism.ts";
import { time } from "./time.ts";
import { units } from "./units.ts";
import { wordProblem } from "./word_problem.ts";

export const FAMILIES: readonly Family[] = [
  addition,
  subtraction,
  multiplication,
  division,
  expression,
  comparison,
  units,
  time,
  wordProblem,
  countdown,
  ordering,
  syllogism,
  strings,
  outside,
];

export function familyNamed(name: string): Family | undefined {
  return FAMILIES.find((family) => family.name === name);
}

export interface ProblemOptions {
  readonly seed: number;
  /** Which problem of the family's endless row, from 0. */
  readonly index: number;
  /** The easiest and the hardest level that are drawn. */
  readonly levels: readonly [number, number];
  readonly notation: Notation;
  /**
   * `short`: the shortest phrasing, and the bare answer for a reply; `typed`: every second prompt with what
   * makes typed text different; `full` by default.
   */
  readonly wording?: Wording;
}

/** Problem `index` of a family. Nothing but the options decides what it is. */
export function problemAt(family: Family, options: ProblemOptions): Problem {
  const { seed, index, levels, notation, wording = "full" } = options;
  const draws = new Draws(`${seed}/${family.name}/${index}`, { wording });
  const difficulty = draws.integer(levels[0], levels[1]);
  const made = family.make(draws, { difficulty, notation });
  const isBare = wording === "short" && !family.answersAreKinds;
  const reply = isBare ? made.answer : made.reply;
  const prompt = wording === "typed" ? asTyped(made.prompt, draws) : made.prompt;
  return { family: family.name, difficulty, ...made, prompt, reply };
}
