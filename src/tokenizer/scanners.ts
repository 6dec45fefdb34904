/**
 * Pre-tokenisers: hand-written scanners for the patterns that published tokenizers split text with.
 * Patterns never run as regular expressions, since one from a file may take time exponential in the
 * text; every scanner here is linear.
 */

import {
  CodePointSet,
  LETTER,
  MARK,
  NEWLINE,
  NUMBER,
  PUNCTUATION,
  SPACE,
  SYMBOL,
} from "./unicode.ts";

/** Text under the scanners with the category flags of each of its UTF-16 units. */
export interface ScanText {
  readonly text: string;
  readonly flags: Uint8Array;
}

/** The end of the piece that begins at `start`, in (start, end]; nothing outside is looked at. */
export type Scanner = (scan: ScanText, start: number, end: number) => number;

/** The end of a match that begins at `start`, or `start` where none does. */
type Matcher = Scanner;

const SPACE_UNIT = 0x20;
const APOSTROPHE = 0x27;

/** UTF-16 units of the character at `i`; pairs are whole, since texts are well-formed. */
function width(text: string, i: number): number {
  const unit = text.charCodeAt(i);
  return unit >= 0xd800 && unit < 0xdc00 ? 2 : 1;
}

function isAsciiLetter(unit: number): boolean {
  const lower = unit | 0x20;
  return lower >= 0x61 && lower <= 0x7a;
}

/** The end of the run of units with one of the flags. */
function run(scan: ScanText, range: { from: number; end: number; flags: number }): number {
  const { end, flags } = range;
  let i = range.from;
  while (i < end && (scan.flags[i] & flags) !== 0) i++;
  return i;
}

/** The end of the run of units with none of the flags. */
function runWithout(scan: ScanText, range: { from: number; end: number; flags: number }): number {
  const { end, flags } = range;
  let i = range.from;
  while (i < end && (scan.flags[i] & flags) === 0) i++;
  return i;
}

/** Makes a scanner whose pieces are the matches and the stretches between them. */
function isolate(match: Matcher): Scanner {
  return (scan, start, end) => {
    const matched = match(scan, start, end);
    if (matched > start) return matched;
    let i = start + width(scan.text, start);
    while (i < end && match(scan, i, end) === i) i += width(scan.text, i);
    return i;
  };
}

/** `\s+(?!\S)|\s+`, at a space: a run leaves its last character to the word behind it. */
function spaces(scan: ScanText, start: number, end: number): number {
  const stop = run(scan, { from: start, end, flags: SPACE });
  return stop < end && stop - start > 1 ? stop - 1 : stop;
}

/** `\s*[\r\n]+|\s+(?!\S)|\s+`, at a space: up to the last line break of the run where there is one. */
function spacesOrNewlines(scan: ScanText, start: number, end: number): number {
  const stop = run(scan, { from: start, end, flags: SPACE });
  for (let i = stop - 1; i >= start; i--) {
    if ((scan.flags[i] & NEWLINE) !== 0) return i + 1;
  }
  return stop < end && stop - start > 1 ? stop - 1 : stop;
}

/** The end of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d` at an apostrophe, or `start`. */
function contraction(
  text: string,
  range: { start: number; end: number; fold: "none" | "ascii" | "unicode" },
): number {
  const { start, end, fold } = range;
  const letter = (i: number) => {
    if (i >= end) return 0;
    const unit = text.charCodeAt(i);
    if (fold === "none") return unit;
    // The long s folds to s; no other character folds to the letters asked for.
    if (fold === "unicode" && unit === 0x17f) return 0x73;
    return isAsciiLetter(unit) ? unit | 0x20 : unit;
  };
  const first = letter(start + 1);
  switch (first) {
    case 0x73: // s
    case 0x74: // t
    case 0x6d: // m
    case 0x64: // d
      return start + 2;
    case 0x72: // r
    case 0x76: // v
      return letter(start + 2) === 0x65 ? start + 3 : start;
    case 0x6c: // l
      return letter(start + 2) === 0x6c ? start + 3 : start;
    default:
      return start;
  }
}

/** `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` */
export const gpt2: Scanner = (scan, start, end) => {
  const { text, flags } = scan;
  const unit = text.charCodeAt(start);
  if (unit === APOSTROPHE) {
    const stop = contraction(text, { start, end, fold: "none" });
    if (stop > start) return stop;
  }
  const from = unit === SPACE_UNIT && start + 1 < end ? start + 1 : start;
  if ((flags[from] & LETTER) !== 0) return run(scan, { from, end, flags: LETTER });
  if ((flags[from] & NUMBER) !== 0) return run(scan, { from, end, flags: NUMBER });
  if ((flags[from] & SPACE) === 0) {
    return runWithout(scan, { from, end, flags: SPACE | LETTER | NUMBER });
  }
  return spaces(scan, start, end);
};

/**
 * `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*
 * |\s*[\r\n]+|\s+(?!\S)|\s+`: Llama 3 with three digits, Qwen 2 with one.
 */
function cl100k(options: { digits: number; fold: "ascii" | "unicode" }): Scanner {
  const { digits, fold } = options;
  return (scan, start, end) => {
    const { text, flags } = scan;
    const unit = text.charCodeAt(start);
    const first = flags[start];
    if ((first & LETTER) !== 0) return run(scan, { from: start, end, flags: LETTER });
    if (unit === APOSTROPHE) {
      const stop = contraction(text, { start, end, fold });
      if (stop > start) return stop;
    }
    if ((first & NUMBER) !== 0) return numberRun(scan, { start, end, most: digits });
    if ((first & NEWLINE) === 0) {
      const next = start + width(text, start);
      if (next < end && (flags[next] & LETTER) !== 0) {
        return run(scan, { from: next, end, flags: LETTER });
      }
    }
    const from = unit === SPACE_UNIT && start + 1 < end ? start + 1 : start;
    if ((flags[from] & (SPACE | LETTER | NUMBER)) === 0) {
      const stop = runWithout(scan, { from, end, flags: SPACE | LETTER | NUMBER });
      return run(scan, { from: stop, end, flags: NEWLINE });
    }
    return spacesOrNewlines(scan, start, end);
  };
}

/** The end of a run of at most `most` number characters. */
function numberRun(scan: ScanText, range: { start: number; end: number; most: number }): number {
  const { start, end, most } = range;
  let i = start;
  for (let n = 0; n < most && i < end && (scan.flags[i] & NUMBER) !== 0; n++) {
    i += width(scan.text, i);
  }
  return i;
}

/** Llama 3 as llama.cpp has it: contractions in ASCII case only. */
export const llama3 = cl100k({ digits: 3, fold: "ascii" });
export const qwen2 = cl100k({ digits: 1, fold: "ascii" });
/** The same by the rules of tokenizer.json, where `(?i:...)` folds as Unicode does. */
export const llama3Folded = cl100k({ digits: 3, fold: "unicode" });
export const qwen2Folded = cl100k({ digits: 1, fold: "unicode" });

/** `\p{N}{1,3}`, isolated. */
export const threeDigits: Scanner = isolate((scan, start, end) =>
  numberRun(scan, { start, end, most: 3 })
);
/** `\p{N}`, isolated; also Digits with individual_digits. */
export const singleDigits: Scanner = isolate((scan, start, end) =>
  numberRun(scan, { start, end, most: 1 })
);
/** `\p{N}+`, isolated; also Digits without individual_digits. */
export const digitRuns: Scanner = isolate((scan, start, end) =>
  run(scan, { from: start, end, flags: NUMBER })
);

/** `[\r\n]`, isolated. */
export const newlines: Scanner = isolate((scan, start) =>
  (scan.flags[start] & NEWLINE) !== 0 ? start + 1 : start
);

/** `\s+$`, isolated, in texts without line breaks: the trailing spaces are a piece. */
export const trailingSpaces: Scanner = (scan, start, end) => {
  let from = end;
  while (from > start && (scan.flags[from - 1] & SPACE) !== 0) from--;
  return from > start ? from : end;
};

/** `\s?X+`, isolated, where X is a set of categories. */
function spacedRun(wanted: number): Scanner {
  return isolate((scan, start, end) => {
    const from = (scan.flags[start] & SPACE) !== 0 ? start + 1 : start;
    const stop = run(scan, { from, end, flags: wanted });
    return stop > from ? stop : start;
  });
}

/** `\s?\p{L}+`, isolated. */
export const spacedLetters: Scanner = spacedRun(LETTER);
/** `\s?\p{P}+`, isolated. */
export const spacedPunctuation: Scanner = spacedRun(PUNCTUATION);

/** The end of a run of members, or `start`. */
function memberRun(
  set: CodePointSet,
  range: { text: string; start: number; end: number },
): number {
  const { text, end } = range;
  let i = range.start;
  while (i < end && set.has(text.codePointAt(i)!)) i += width(text, i);
  return i;
}

/** `[...]+`, isolated, by code points. */
export function memberRuns(ranges: string): Scanner {
  const set = new CodePointSet(ranges);
  return isolate(({ text }, start, end) => memberRun(set, { text, start, end }));
}

/** `\s?[...]+`, isolated, by code points. */
export function spacedMemberRuns(ranges: string): Scanner {
  const set = new CodePointSet(ranges);
  return isolate(({ text, flags }, start, end) => {
    // A space that is itself a member needs no other character behind it.
    if ((flags[start] & SPACE) !== 0) {
      const stop = memberRun(set, { text, start: start + 1, end });
      if (stop > start + 1) return stop;
    }
    return memberRun(set, { text, start, end });
  });
}

/**
 * DeepSeek-V3's third step: an ASCII punctuation character with the ASCII letters behind it, words
 * with marks, punctuation and symbols, spaces; what matches nothing (control characters, private
 * use) stays together.
 */
export const deepseekV3Words: Scanner = isolate((scan, start, end) => {
  const { text, flags } = scan;
  const unit = text.charCodeAt(start);
  const first = flags[start];
  if ((first & (LETTER | MARK)) !== 0) {
    return run(scan, { from: start, end, flags: LETTER | MARK });
  }
  const next = start + width(text, start);
  if ((first & (PUNCTUATION | SYMBOL)) !== 0) {
    if (unit < 0x80 && next < end && isAsciiLetter(text.charCodeAt(next))) {
      let stop = next + 1;
      while (stop < end && isAsciiLetter(text.charCodeAt(stop))) stop++;
      return stop;
    }
  } else if ((first & NEWLINE) === 0 && next < end && (flags[next] & (LETTER | MARK)) !== 0) {
    return run(scan, { from: next, end, flags: LETTER | MARK });
  }
  const from = unit === SPACE_UNIT && start + 1 < end ? start + 1 : start;
  if ((flags[from] & (PUNCTUATION | SYMBOL)) !== 0) {
    const stop = run(scan, { from, end, flags: PUNCTUATION | SYMBOL });
    return run(scan, { from: stop, end, flags: NEWLINE });
  }
  return (first & SPACE) !== 0 ? spacesOrNewlines(scan, start, end) : start;
});

/** Cuts a text by several scanners, each on the pieces of the one before, one piece at a time. */
export class PieceIterator {
  readonly #scan: ScanText;
  readonly #scanners: readonly Scanner[];
  /** ends[k] bounds what scanner k works on; the last entry is the end of the current piece. */
  readonly #ends: Int32Array;
  start = 0;
  end = 0;

  constructor(scan: ScanText, scanners: readonly Scanner[]) {
    this.#scan = scan;
    this.#scanners = scanners;
    this.#ends = new Int32Array(scanners.length + 1);
    this.#ends[0] = scan.text.length;
  }

  /** Moves on to the next piece [start, end); false behind the last one. */
  next(): boolean {
    const ends = this.#ends;
    const depth = this.#scanners.length;
    const start = this.end;
    if (start >= ends[0]) return false;
    let level = depth;
    while (start >= ends[level]) level--;
    // With no scanner at all the text is one piece, and the loop below does not run.
    for (; level < depth; level++) {
      ends[level + 1] = this.#scanners[level](this.#scan, start, ends[level]);
    }
    this.start = start;
    this.end = ends[depth];
    return true;
  }
}
