/** Filters that look at one text alone: its length, its symbols, its repetitions. */

import { hashWords } from "../hash.ts";
import { wordHashes, wordsOf } from "./words.ts";

export interface LengthLimits {
  readonly minCharacters: number;
  readonly maxCharacters: number;
  readonly minWords: number;
  readonly maxWords: number;
}

export function lengthFault(text: string, limits: LengthLimits): string | null {
  const words = wordsOf(text).length;
  if (text.length < limits.minCharacters || words < limits.minWords) return "too short";
  if (text.length > limits.maxCharacters || words > limits.maxWords) return "too long";
  return null;
}

export interface SymbolLimits {
  /** Share of characters that are neither letters, digits nor spaces. */
  readonly maxSymbols: number;
  /** Share of characters other than spaces that are letters. */
  readonly minLetters: number;
}

export function symbolFault(text: string, limits: SymbolLimits): string | null {
  let letters = 0;
  let digits = 0;
  let spaces = 0;
  let all = 0;
  for (const char of text) {
    all++;
    if (/\p{L}|\p{M}/u.test(char)) letters++;
    else if (/\p{N}/u.test(char)) digits++;
    else if (/\s/.test(char)) spaces++;
  }
  if (all === spaces) return "too few letters";
  if ((all - letters - digits - spaces) / all > limits.maxSymbols) return "too many symbols";
  return letters / (all - spaces) < limits.minLetters ? "too few letters" : null;
}

/** Limits on repetition, after Rae et al. 2021 (Gopher), table A1. */
export interface RepetitionLimits {
  /** Share of lines that have been there before. */
  readonly maxLines: number;
  /** Share of words that lie in a run of `words` words that has been there before. */
  readonly maxWords: number;
  readonly words: number;
  /** Share of pairs of words that are the commonest pair. */
  readonly maxPair: number;
}

/** Below this many lines or words, repetition says nothing. */
const MIN_LINES = 4;
const MIN_WORDS = 40;

export function repetitionFault(text: string, limits: RepetitionLimits): string | null {
  const lines = text.split("\n").map((line) => line.trim()).filter((line) => line !== "");
  if (lines.length >= MIN_LINES) {
    const repeated = lines.length - new Set(lines).size;
    if (repeated / lines.length > limits.maxLines) return "repeated lines";
  }
  const words = wordHashes(text);
  if (words.length < MIN_WORDS) return null;
  if (repeatedShare(words, limits.words) > limits.maxWords) return "repeated words";
  return commonestPairShare(words) > limits.maxPair ? "repeated words" : null;
}

function repeatedShare(words: Uint32Array, length: number): number {
  const seen = new Set<number>();
  let covered = 0;
  let coveredTo = 0;
  for (let i = 0; i + length <= words.length; i++) {
    const run = hashWords(words, { from: i, to: i + length });
    if (seen.has(run)) {
      covered += i + length - Math.max(i, coveredTo);
      coveredTo = i + length;
    } else seen.add(run);
  }
  return covered / words.length;
}

function commonestPairShare(words: Uint32Array): number {
  const counts = new Map<number, number>();
  let most = 0;
  for (let i = 0; i + 2 <= words.length; i++) {
    const pair = hashWords(words, { from: i, to: i + 2 });
    const count = (counts.get(pair) ?? 0) + 1;
    counts.set(pair, count);
    most = Math.max(most, count);
  }
  return most / (words.length - 1);
}
