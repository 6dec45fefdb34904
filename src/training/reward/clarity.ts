/** Reasoning clarity: whether a text can be read. It says nothing about whether it is right. */

import { numbersIn } from "../data/checkers/answer_text.ts";
import { equal, type Rational } from "../data/checkers/rational.ts";
import type { Reading } from "./reading.ts";
import type { StepLine } from "./steps.ts";

/** Characters of a line that is easily read. */
const LONG_LINE = 300;
/** Characters of an answer, likewise. */
const LONG_ANSWER = 1000;
/** Shares of lines and of word sequences that may come again before it counts. */
const FREE_LINES = 0.4;
const FREE_SEQUENCES = 0.5;
const SEQUENCE = 4;

/**
 * 0 where the form is broken (see `CompletionParts.fault`) or the reasoning is too long to be read; else
 * the product of four shares: characters that stand in lines of at most 300 (and an answer of at most
 * 1000), lines that are new and say something, word sequences that are new, and characters that are
 * readable.
 */
export function clarityReward(reading: Reading): number {
  const { parts: { reasoning, answer, fault }, isReadable, working, sample } = reading;
  if (fault !== null || !isReadable) return 0;
  const short = withinLines(reasoning) * Math.min(1, LONG_ANSWER / answer.length);
  const fresh = 1 - beyond(fillerShare(working.lines, sample.prompt), FREE_LINES);
  const varied = 1 - beyond(repeatedShare(reasoning), FREE_SEQUENCES);
  return short * fresh * varied * legibility(`${reasoning}\n${answer}`, sample.prompt);
}

/** How far a share is beyond what is free, of what there could be. */
function beyond(share: number, free: number): number {
  return Math.max(0, share - free) / (1 - free);
}

function withinLines(text: string): number {
  let [within, all] = [0, 0];
  for (const line of text.split("\n")) {
    within += Math.min(line.length, LONG_LINE);
    all += line.length;
  }
  return within / Math.max(1, all);
}

/** The share of lines that stood there before or in the prompt, or say nothing. */
function fillerShare(lines: readonly StepLine[], prompt: string): number {
  const asked = numbersIn(prompt);
  const seen = new Set<string>();
  let filler = 0;
  for (const line of lines) {
    if (seen.has(line.text) || saysNothing(line, { asked, prompt })) filler++;
    seen.add(line.text);
  }
  return filler / Math.max(1, lines.length);
}

/** A line of signs, a part of the prompt, or `1 = 1` about numbers that the prompt doesn't have. */
function saysNothing(
  { text, claims }: StepLine,
  { asked, prompt }: { asked: readonly Rational[]; prompt: string },
): boolean {
  if (claims.length === 0) return !/[\p{L}\p{N}]/u.test(text) || prompt.includes(text);
  return claims.every(({ relation }) =>
    relation?.sign === "=" && relation.left.tokens.length === 1 &&
    relation.right.tokens.length === 1 &&
    !asked.some((value) => equal(value, relation.left.value))
  );
}

/** The share of sequences of four words that were there before. */
function repeatedShare(text: string): number {
  const words = text.split(/\s+/);
  const seen = new Set<string>();
  let repeated = 0;
  for (let i = SEQUENCE; i <= words.length; i++) {
    const sequence = words.slice(i - SEQUENCE, i).join(" ");
    if (seen.has(sequence)) repeated++;
    seen.add(sequence);
  }
  return repeated / Math.max(1, words.length - SEQUENCE + 1);
}

/** Greek stands in formulas of every language. */
const READABLE = /[\p{L}\p{M}\p{P}\p{Sm}\p{Sc}\p{Sk}\p{Zs}0-9\n\t²³°¼½¾⅓⅔]/u;
const SCRIPTS = [
  /\p{Script=Latin}/u,
  /\p{Script=Han}/u,
  /\p{Script=Cyrillic}/u,
  /\p{Script=Arabic}/u,
  /\p{Script=Hangul}/u,
  /[\p{Script=Hiragana}\p{Script=Katakana}]/u,
  /\p{Script=Devanagari}/u,
  /\p{Script=Hebrew}/u,
  /\p{Script=Thai}/u,
];

/**
 * 1 where all characters are readable, 0 where a tenth of them aren't: control characters, pictures,
 * digits other than 0 to 9, and letters of a script that the prompt doesn't use.
 */
function legibility(text: string, prompt: string): number {
  const foreign = SCRIPTS.slice(1).filter((script) => !script.test(prompt));
  let [bad, all] = [0, 0];
  for (const char of text) {
    all++;
    if (char < "\x7f" ? char < " " && char !== "\n" && char !== "\t" : isBad(char, foreign)) bad++;
  }
  return Math.max(0, 1 - 10 * bad / all);
}

function isBad(char: string, foreign: readonly RegExp[]): boolean {
  return !READABLE.test(char) || foreign.some((script) => script.test(char));
}
