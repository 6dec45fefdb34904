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

/** A side of an equation or comparison, and its value. */
export interface Side {
  readonly tokens: readonly Token[];
  readonly value: Rational;
}

export interface Claim {
  /** The stretch of the line that it stands in. */
  readonly text: string;
  readonly isRight: boolean;
  /** What it says of numbers; undefined for claims about letters and units. */
  readonly relation?: { readonly sign: string; readonly left: Side; readonly right: Side };
}

/** Longer lines are not read: they are no short steps. */
const MAX_LINE = 2000;

/** Every claim of a line, worked out. */
export function claimsOf(line: string): Claim[] {
  if (line.length > MAX_LINE) return [];
  const letters = checkLetters(line);
  if (letters !== null) return [{ text: line, isRight: letters }];
  return line.split(/;|: /).flatMap((part): Claim[] => {
    const text = part.trim();
    const unit = checkUnit(text);
    if (unit !== null) return [{ text, isRight: unit }];
    return relationsIn(tokensOf(part)).map((relation) => ({
      text,
      isRight: holds(relation),
      relation,
    }));
  });
}

/** Checks every claim of a line. */
export function checkLine(line: string): LineVerdict {
  const claims = claimsOf(line);
  return {
    right: claims.filter(({ isRight }) => isRight).length,
    wrong: claims.filter(({ isRight }) => !isRight).map(({ text }) => text),
  };
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

type Relation = NonNullable<Claim["relation"]>;

/** Every relation between two readable expressions; the others are passed over. */
function relationsIn(tokens: readonly Token[]): Relation[] {
  const relations: Relation[] = [];
  for (const { run, follows, next } of runsOf(tokens)) {
    const sides: Token[][] = [[]];
    const signs: string[] = [];
    for (const token of run) {
      if (token.kind === "relation") {
        signs.push(token.text);
        sides.push([]);
      } else sides.at(-1)!.push(token);
    }
    // Words beside a run may be part of its outer sides: `30% of 50 = 15`, `12 = 3 times 4`.
    const isOpen = sides.map((side, i) =>
      (i === 0 && follows && isPartial(side, signs[0])) ||
      (i === sides.length - 1 && GOES_ON.test(next))
    );
    signs.forEach((sign, i) => {
      const [left, right] = [evaluate(sides[i]), evaluate(sides[i + 1])];
      if (left === null || right === null || isOpen[i] || isOpen[i + 1]) return;
      relations.push({
        sign,
        left: { tokens: sides[i], value: left },
        right: { tokens: sides[i + 1], value: right },
      });
    });
  }
  return relations;
}

/** Whether a word in front may belong to a left side: `of 50 = 15`, `apples - 3 = 4`. */
function isPartial(side: readonly Token[], sign: string): boolean {
  const isValue = !side.some(({ kind }) => kind === "operator");
  return side[0]?.kind === "operator" || (isValue && sign === "=");
}

/** Words, without the spaces between them, in front of which a number is only a part of one. */
const GOES_ON = /^(?:[%^x]|times|percent|hundred|thousand|million|billion|dozen)/i;

interface Run {
  readonly run: Token[];
  /** Whether a word stands in front. */
  readonly follows: boolean;
  /** The words behind it. */
  next: string;
}

/** Stretches of tokens without words. */
function runsOf(tokens: readonly Token[]): Run[] {
  const runs: Run[] = [{ run: [], follows: false, next: "" }];
  for (const token of tokens) {
    const last = runs.at(-1)!;
    if (token.kind === "word") last.next += token.text;
    else if (last.next === "") last.run.push(token);
    else runs.push({ run: [token], follows: true, next: "" });
  }
  return runs;
}

function holds({ sign, left, right }: Relation): boolean {
  if (sign === "<") return compare(left.value, right.value) < 0;
  if (sign === ">") return compare(left.value, right.value) > 0;
  return equal(left.value, right.value) || isRounded(left.value, right.tokens);
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
