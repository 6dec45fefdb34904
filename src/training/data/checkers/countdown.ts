/** Checks Countdown: any expression is right that uses each number once and comes out at the target. */

import { boxedAnswer, plainAnswer } from "./answer_text.ts";
import { evaluate, numberOf, type Token, tokensOf } from "./expression.ts";
import { equal, type Rational } from "./rational.ts";
import type { Checker } from "./types.ts";

interface Puzzle {
  readonly numbers: readonly Rational[];
  readonly target: Rational;
}

function puzzleOf(prompt: string): Puzzle | null {
  const match = /\b(?:make|equals) (\d+)/i.exec(prompt);
  if (match === null) return null;
  const rest = prompt.slice(0, match.index) + prompt.slice(match.index + match[0].length);
  const numbers = [...rest.matchAll(/\d+/g)].map((number) => numberOf(number[0])!);
  return { numbers, target: numberOf(match[1])! };
}

/** Whether both lists hold the same numbers the same number of times. */
function sameNumbers(a: readonly Rational[], b: readonly Rational[]): boolean {
  const rest = [...b];
  for (const value of a) {
    const at = rest.findIndex((other) => equal(other, value));
    if (at < 0) return false;
    rest.splice(at, 1);
  }
  return rest.length === 0;
}

function isSolution(tokens: readonly Token[], { numbers, target }: Puzzle): boolean {
  const value = evaluate(tokens);
  const used = tokens.filter(({ kind }) => kind === "number").map(({ text }) => numberOf(text));
  return value !== null && equal(value, target) && used.every((number) => number !== null) &&
    sameNumbers(used, numbers);
}

export const countdown: Checker = {
  isRight(prompt, text) {
    const puzzle = puzzleOf(prompt);
    const plain = plainAnswer(text);
    if (puzzle === null || plain === null) return false;
    const boxed = boxedAnswer(plain);
    if (boxed === null) return false;
    const tokens = tokensOf((boxed ?? plain).replace(/\.$/, ""));
    const equals = tokens.findIndex(({ kind }) => kind === "relation");
    if (equals < 0) return isSolution(tokens, puzzle);
    const right = evaluate(tokens.slice(equals + 1));
    return tokens[equals].text === "=" && right !== null && equal(right, puzzle.target) &&
      isSolution(tokens.slice(0, equals), puzzle);
  },
};
