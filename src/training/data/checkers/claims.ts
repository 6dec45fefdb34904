/**
 * The claims of a line of reasoning, each worked out again: equations and comparisons wherever they
 * stand in a line, and the lines about letters and units whose forms docs/data.md lists. What is not a
 * claim (words, names) counts neither for nor against.
 */

import { evaluate, numberOf, type Token, tokensOf } from "./expression.ts";
import { checkLetters } from "./letters.ts";
import { add, compare, equal, type Rational, rational, subtract } from "./rational.ts";

export interface LineVerdict {
  /** Claims that hold. */
  readonly right: number;
  /** Claims that don't, as they are written. */
  readonly wrong: readonly string[];
}

/** Longer lines are not read: they are no short steps. */
const MAX_LINE = 2000;

/** Checks every claim of a line. */
export function checkLine(line: string): LineVerdict {
  if (line.length > MAX_LINE) return { right: 0, wrong: [] };
  const letters = checkLetters(line);
  if (letters !== null) return letters ? { right: 1, wrong: [] } : { right: 0, wrong: [line] };
  let right = 0;
  const wrong: string[] = [];
  for (const part of line.split(/;|: /)) {
    const unit = checkUnit(part.trim());
    const verdicts = unit === null ? checkRelations(tokensOf(part)) : [unit];
    for (const isRight of verdicts) {
      if (isRight) right++;
      else wrong.push(part.trim());
    }
  }
  return { right, wrong };
}

/** Checks lines together: how many claims hold, and which don't. */
export function checkLines(lines: Iterable<string>): LineVerdict {
  let right = 0;
  const wrong: string[] = [];
  for (const line of lines) {
    const verdict = checkLine(line);
    right += verdict.right;
    wrong.push(...verdict.wrong);
  }
  return { right, wrong };
}

/** How many of the smaller unit make the larger one. */
const UNITS: ReadonlyMap<string, number> = new Map([
  ["km m", 1000],
  ["m cm", 100],
  ["cm mm", 10],
  ["m mm", 1000],
  ["kg g", 1000],
  ["l ml", 1000],
  ["dollar cents", 100],
  ["hour minutes", 60],
  ["minute seconds", 60],
  ["hour seconds", 3600],
  ["day hours", 24],
  ["week days", 7],
]);

/** `1 m = 100 cm`; null where it is no such claim. */
function checkUnit(text: string): boolean | null {
  const match = /^1 ([a-z]+) = (\d{1,9}) ([a-z]+)$/.exec(text);
  if (match === null) return null;
  return UNITS.get(`${match[1]} ${match[3]}`) === Number(match[2]);
}

/** Every relation between two readable expressions; the others are passed over. */
function checkRelations(tokens: readonly Token[]): boolean[] {
  const verdicts: boolean[] = [];
  for (const run of runsOf(tokens)) {
    const sides: Token[][] = [[]];
    const relations: string[] = [];
    for (const token of run) {
      if (token.kind === "relation") {
        relations.push(token.text);
        sides.push([]);
      } else sides.at(-1)!.push(token);
    }
    relations.forEach((relation, i) => {
      const [left, right] = [evaluate(sides[i]), evaluate(sides[i + 1])];
      if (left === null || right === null) return;
      verdicts.push(holds(relation, { left, right, literal: sides[i + 1] }));
    });
  }
  return verdicts;
}

/** Stretches of tokens without words. */
function runsOf(tokens: readonly Token[]): Token[][] {
  const runs: Token[][] = [[]];
  for (const token of tokens) {
    if (token.kind === "word") runs.push([]);
    else runs.at(-1)!.push(token);
  }
  return runs;
}

function holds(
  relation: string,
  sides: { left: Rational; right: Rational; literal: readonly Token[] },
): boolean {
  const { left, right, literal } = sides;
  if (relation === "<") return compare(left, right) < 0;
  if (relation === ">") return compare(left, right) > 0;
  return equal(left, right) || isRounded(left, literal);
}

/** Whether the right side is the left one rounded to at least two decimals: `10 / 3 = 3.33`. */
function isRounded(value: Rational, literal: readonly Token[]): boolean {
  const decimals = literal.length === 1 ? /^[\d,]+\.(\d{2,})$/.exec(literal[0].text) : null;
  if (decimals === null) return false;
  const half = rational(1n, 2n * 10n ** BigInt(decimals[1].length));
  const written = numberOf(literal[0].text);
  return written !== null && compare(subtract(value, half), written) <= 0 &&
    compare(add(value, half), written) >= 0;
}
