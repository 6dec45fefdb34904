/**
 * What a text claims as its answer. A policy that is paid for right answers writes several and hopes:
 * so a text that leaves it open which one is meant has none.
 */

import { checkLine } from "./claims.ts";
import { evaluate, numberOf, tokensOf } from "./expression.ts";
import { equal, type Rational, rational } from "./rational.ts";

/** An answer is a sentence; a longer text is not read. */
export const MAX_ANSWER = 300;

const HEDGES = /\b(?:or|either|maybe|perhaps|possibly|unless|otherwise|alternatively)\b/i;

/** The text in its plain form, or null where it cannot be one answer. */
export function plainAnswer(text: string): string | null {
  const plain = text.trim();
  return plain === "" || plain.length > MAX_ANSWER || HEDGES.test(plain) ? null : plain;
}

/** What stands in the text's `\boxed{...}`; undefined where there is none, null where two differ. */
export function boxedAnswer(text: string): string | null | undefined {
  const found = new Set([...text.matchAll(/\\boxed\{([^{}]*)\}/g)].map((match) => match[1].trim()));
  return found.size === 0 ? undefined : found.size === 1 ? [...found][0] : null;
}

/**
 * The one number that a text gives as its answer to `prompt`; null where there is none or more than one.
 * Numbers that the prompt has may be repeated beside it; equations must hold, and end with the answer.
 */
export function statedNumber(text: string, prompt: string): Rational | null {
  const plain = plainAnswer(text);
  if (plain === null) return null;
  const boxed = boxedAnswer(plain);
  if (boxed === null) return null;
  if (boxed !== undefined) return evaluate(tokensOf(boxed));
  if (checkLine(plain).wrong.length > 0) return null;
  const stated = numbersIn(plain);
  if (stated.length === 0) return null;
  const asked = numbersIn(prompt);
  const fresh = stated.filter((value) => !asked.some((other) => equal(value, other)));
  if (plain.includes("=")) {
    const last = stated.at(-1)!;
    return fresh.every((value) => equal(value, last)) ? last : null;
  }
  const [first, ...rest] = fresh;
  if (first === undefined) {
    const different = stated.filter((value, i) => stated.findIndex((o) => equal(o, value)) === i);
    return different.length <= 2 ? stated.at(-1)! : null;
  }
  return rest.every((value) => equal(value, first)) ? first : null;
}

/** Whether a text states exactly this number. */
export function statesNumber(
  text: string,
  expected: { prompt: string; value: Rational | number },
): boolean {
  const stated = statedNumber(text, expected.prompt);
  const { value } = expected;
  const wanted = typeof value === "number" ? rational(BigInt(value)) : value;
  return stated !== null && equal(stated, wanted);
}

/** The numbers of a text in order; a minus in front of one that no operand precedes is its sign. */
export function numbersIn(text: string): Rational[] {
  const numbers: Rational[] = [];
  const tokens = tokensOf(text);
  tokens.forEach((token, i) => {
    if (token.kind !== "number") return;
    const value = numberOf(token.text);
    if (value === null) return;
    const before = tokens[i - 1];
    const isSigned = /^[-−]$/.test(before?.text ?? "") &&
      !["number", "close"].includes(tokens[i - 2]?.kind ?? "");
    numbers.push(isSigned ? rational(-value.over, value.under) : value);
  });
  return numbers;
}

/** The one of `choices` that a text names, whatever its case; null where it names none or several. */
export function statedChoice(text: string, choices: readonly string[]): string | null {
  const plain = plainAnswer(text);
  if (plain === null) return null;
  const boxed = boxedAnswer(plain);
  if (boxed === null) return null;
  const subject = (boxed ?? plain).toLowerCase();
  const named = choices.filter((choice) =>
    new RegExp(`(?<![\\p{L}\\p{N}])${RegExp.escape(choice.toLowerCase())}(?![\\p{L}\\p{N}])`, "u")
      .test(subject)
  );
  return named.length === 1 ? named[0] : null;
}
