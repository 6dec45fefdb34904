/** Whether a text gives the right answer, by what kind of answer is expected. */

import { numbersIn, statedNumber } from "../../data/checkers/answer_text.ts";
import { equal, type Rational } from "../../data/checkers/rational.ts";
import type { Choice } from "../types.ts";
import { sameExpression } from "./algebra.ts";
import { choicesIn, takenChoice } from "./choice.ts";
import { givenAnswer } from "./extract.ts";
import { readValue, type Value, valuesAgree } from "./value.ts";

export interface Expected {
  readonly answer: string;
  readonly prompt: string;
  readonly choices?: readonly Choice[];
}

/** Whether `text` gives `answer`, and no other beside it. */
export function isRightAnswer(text: string, expected: Expected): boolean {
  const given = givenAnswer(text);
  if (given === null) return false;
  const answer = expected.answer.trim();
  const choices = expected.choices ?? choicesIn(expected.prompt);
  const isChoice = choices.some(({ label }) => label.toUpperCase() === answer.toUpperCase());
  if (isChoice) {
    return takenChoice(given, choices)?.toUpperCase() === answer.toUpperCase();
  }
  if (Object.hasOwn(VERDICTS, answer.toLowerCase())) {
    return verdictIn(given) === VERDICTS[answer.toLowerCase()];
  }
  const value = readValue(answer);
  if (value !== null) return givesValue(given, { ...expected, value });
  const parts = tupleOf(answer);
  if (parts !== null) {
    const others = tupleOf(given);
    return others?.length === parts.length &&
      parts.every((part, i) => isSamePart(others[i], { ...expected, answer: part }));
  }
  return isSamePart(given, { ...expected, answer });
}

const VERDICTS: Readonly<Record<string, boolean>> = {
  yes: true,
  true: true,
  no: false,
  false: false,
};

/** The one verdict that a text has, whatever its word. */
function verdictIn(text: string): boolean | null {
  const words = [...text.toLowerCase().matchAll(/\b(?:yes|no|true|false)\b/g)];
  const verdicts = new Set(words.map((match) => VERDICTS[match[0]]));
  return verdicts.size === 1 && !/\bnot\b/i.test(text) ? [...verdicts][0] : null;
}

/** The only number of a text, with its unit, or the number that its sentence states. */
function givesValue(
  text: string,
  expected: Expected & { readonly value: Value },
): boolean {
  const { prompt, value, answer } = expected;
  const alone = readValue(text) ?? readValue(text.replace(/^\s*[a-zA-Z]\s*=\s*/, ""));
  if (alone !== null) {
    return valuesAgree(alone, value) && !(alone.isFraction && isCopied(text, { prompt, answer }));
  }
  const inside: string[] = text.match(VALUE_IN_TEXT) ?? [];
  const different = new Set(inside.map((part) => part.replaceAll(" ", "")));
  const only = different.size === 1 ? readValue(inside[0]) : null;
  if (only !== null && !text.includes("=")) {
    return valuesAgree(only, value) &&
      !(only.isFraction && isCopied(inside[0], { prompt, answer }));
  }
  const stated = statedNumber(text, prompt);
  return stated !== null && equal(stated, value.number);
}

/** Numbers and fractions within a sentence. */
const VALUE_IN_TEXT = /(?<![\w.])[-−]?\$?\d[\d,]*(?:\.\d+)?(?: ?\/ ?\d+)?(?: ?%)?(?![\w/])/g;

/** What is the same as the answer and stands in the prompt as it is was copied, not worked out. */
function isCopied(text: string, { prompt, answer }: { prompt: string; answer: string }): boolean {
  const bare = (part: string) => part.replace(/[\s$\\]+/g, "");
  return bare(text) !== bare(answer) && bare(prompt).includes(bare(text));
}

/** `(1, 2)` -> 1 and 2; null for what is no tuple. */
function tupleOf(text: string): string[] | null {
  const match = /^\s*\$?\\?(?:left)?[([](.*),(.*)\\?(?:right)?[)\]]\$?\s*$/s.exec(text);
  if (match === null) return null;
  const inner = text.trim().replace(/^\$|\$$/g, "").replace(/\\left|\\right/g, "").slice(1, -1);
  const parts: string[] = [];
  let [depth, start] = [0, 0];
  for (let i = 0; i <= inner.length; i++) {
    if ("([{".includes(inner[i])) depth++;
    else if (")]}".includes(inner[i])) depth--;
    else if (i === inner.length || (inner[i] === "," && depth === 0)) {
      parts.push(inner.slice(start, i).trim());
      start = i + 1;
    }
  }
  return parts.length > 1 ? parts : null;
}

function isSamePart(text: string, { answer, prompt }: Expected): boolean {
  const [given, expected] = [readValue(text), readValue(answer)];
  if (given !== null && expected !== null) return valuesAgree(given, expected);
  if (wordsOf(text) === wordsOf(answer)) return true;
  return [text, answer].every(isAlgebra) && sameExpression(text, answer) &&
    !isCopied(text, { prompt, answer });
}

/** A letter or what has a sign or digit: `cat` is no product of c, a and t. */
function isAlgebra(text: string): boolean {
  return /[\d+*/^=\\(√π-]|^\s*\$?[a-z]\$?\s*$/i.test(text);
}

/** Without case, articles, dollar signs, and punctuation at the end. */
function wordsOf(text: string): string {
  return text.toLowerCase().replace(/\\(?:text|mathrm)\{([^{}]*)\}/g, "$1").replace(/[$"“”]/g, "")
    .replace(/\b(?:a|an|the)\s/g, "").replace(/\s+/g, " ").replace(/[.!]+\s*$/, "").trim();
}

/** The numbers that an answer states, for comparison with what was worked out. */
export function statedNumbers(text: string): Rational[] {
  const given = givenAnswer(text);
  if (given === null) return [];
  const value = readValue(given);
  return value === null ? numbersIn(given) : [value.number];
}
