/**
 * Which scanners a file asks for: by llama.cpp's names (`tokenizer.ggml.pre`) or by the
 * `pre_tokenizer` structure of a tokenizer.json, whose patterns are recognised as whole strings.
 */

import { FormatError } from "../errors.ts";
import {
  deepseekV3Words,
  digitRuns,
  gpt2,
  llama3,
  llama3Folded,
  memberRuns,
  newlines,
  qwen2,
  qwen2Folded,
  type Scanner,
  singleDigits,
  spacedLetters,
  spacedMemberRuns,
  spacedPunctuation,
  threeDigits,
  trailingSpaces,
} from "./scanners.ts";

/**
 * Cased letters as DeepSeek-LLM's pattern lists them (not quite any Unicode property). Escaped, since
 * editors that compose characters would change some of them.
 */
const CASED_LETTERS =
  "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af" +
  "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1" +
  "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5" +
  "\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a" +
  "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d" +
  "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3" +
  "\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115" +
  "\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149" +
  "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d" +
  "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06" +
  "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\u{10400}-\u{1044f}\u{104b0}-\u{104d3}" +
  "\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}" +
  "\u{1e900}-\u{1e943}";
/** DeepSeek-LLM's punctuation: ASCII, its full-width twins, quotation marks, CJK marks. */
const PUNCTUATION_MARKS = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002";
/** Han, and the rest of the scripts from Samaritan to Hangul. */
const EAST_ASIAN = "\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff";
/** Han, Hiragana and Katakana. */
export const HAN_AND_KANA = "\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff";

const casedWords = spacedMemberRuns(CASED_LETTERS);
const punctuationMarks = spacedMemberRuns(PUNCTUATION_MARKS);
const eastAsian = memberRuns(EAST_ASIAN);
const hanAndKana = memberRuns(HAN_AND_KANA);

const DEEPSEEK_LLM: readonly Scanner[] = Object.freeze([
  newlines,
  casedWords,
  punctuationMarks,
  trailingSpaces,
  eastAsian,
  digitRuns,
]);
const DEEPSEEK_CODER: readonly Scanner[] = Object.freeze([
  newlines,
  spacedLetters,
  spacedPunctuation,
  eastAsian,
  singleDigits,
]);
const DEEPSEEK_V3: readonly Scanner[] = Object.freeze([
  threeDigits,
  hanAndKana,
  deepseekV3Words,
]);
const DIGITS_THEN_GPT2: readonly Scanner[] = Object.freeze([singleDigits, gpt2]);

/** How the name in `tokenizer.ggml.pre` is to be understood. */
export interface NamedPreTokenizer {
  readonly scanners: readonly Scanner[];
  /** Pieces that are tokens are not merged. */
  readonly ignoreMerges: boolean;
  /** Whether BOS is added where the file does not say. */
  readonly addBos: boolean;
}

function named(scanners: readonly Scanner[], options: { llama3?: boolean } = {}) {
  const flag = options.llama3 ?? false;
  return Object.freeze({ scanners, ignoreMerges: flag, addBos: flag });
}

const BY_NAME: ReadonlyMap<string, NamedPreTokenizer> = new Map(
  [
    ...["llama-bpe", "llama3", "llama-v3"].map((name) => [name, named([llama3], { llama3: true })]),
    ...["qwen2", "deepseek-r1-qwen"].map((name) => [name, named([qwen2])]),
    ["deepseek-llm", named(DEEPSEEK_LLM)],
    ["deepseek-coder", named(DEEPSEEK_CODER)],
    ["deepseek-v3", named(DEEPSEEK_V3)],
    ...["gpt-2", "gpt2", "olmo"].map((name) => [name, named([gpt2])]),
    ...["smollm", "starcoder", "refact", "command-r", "codeshell"]
      .map((name) => [name, named(DIGITS_THEN_GPT2)]),
  ] as [string, NamedPreTokenizer][],
);

/** The pre-tokeniser of a GGUF file; FormatError where the name is not known. */
export function preTokenizerByName(name: string, options: { action: string }): NamedPreTokenizer {
  const found = BY_NAME.get(name);
  if (found === undefined) {
    const must = `one of ${[...BY_NAME.keys()].join(", ")}`;
    throw FormatError.of(options.action, "tokenizer.ggml.pre", JSON.stringify(name), must);
  }
  return found;
}

/** Scanners of tokenizer.json that differ from those of GGUF in letters outside ASCII's case alone. */
const UNFOLDED: ReadonlyMap<Scanner, Scanner> = new Map([
  [llama3Folded, llama3],
  [qwen2Folded, qwen2],
]);

/** The name by which GGUF files have a pre-tokeniser; undefined where there is none. */
export function preTokenizerName(scanners: readonly Scanner[]): string | undefined {
  const plain = scanners.map((scanner) => UNFOLDED.get(scanner) ?? scanner);
  for (const [name, entry] of BY_NAME) {
    const same = entry.scanners.length === plain.length &&
      entry.scanners.every((scanner, i) => scanner === plain[i]);
    if (same) return name;
  }
  return undefined;
}

const GPT2_PATTERN =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
export const CL100K_PATTERN = (digits: string) =>
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" + digits +
  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
export const DEEPSEEK_V3_PATTERN =
  "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+" +
  "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

/** The same pattern as files have it whose writer escaped what need not be. */
const DEEPSEEK_V3_ESCAPED = DEEPSEEK_V3_PATTERN.replaceAll("\r", "\\r").replaceAll("\n", "\\n")
  .replace('"', '\\"');

/** Scanners of Split steps by their pattern. */
const BY_PATTERN: ReadonlyMap<string, Scanner> = new Map([
  [GPT2_PATTERN, gpt2],
  [CL100K_PATTERN("\\p{N}{1,3}"), llama3Folded],
  [CL100K_PATTERN("\\p{N}"), qwen2Folded],
  ["\\p{N}{1,3}", threeDigits],
  ["\\p{N}", singleDigits],
  ["\\p{N}+", digitRuns],
  [`[${HAN_AND_KANA}]+`, hanAndKana],
  [DEEPSEEK_V3_PATTERN, deepseekV3Words],
  [DEEPSEEK_V3_ESCAPED, deepseekV3Words],
  ["[\r\n]", newlines],
  ["\\s?\\p{L}+", spacedLetters],
  ["\\s?\\p{P}+", spacedPunctuation],
  [`\\s?[${CASED_LETTERS}]+`, casedWords],
  [`\\s?[${PUNCTUATION_MARKS}]+`, punctuationMarks],
  ["\\s+$", trailingSpaces],
  [`[${EAST_ASIAN}]+`, eastAsian],
]);

/** Patterns that match every character, so that removing what is between matches removes nothing. */
const COVERING: ReadonlySet<Scanner> = new Set([gpt2, llama3Folded, qwen2Folded]);

type Json = Readonly<Record<string, unknown>>;

/** The pre-tokeniser of a tokenizer.json; FormatError where a step is not known. */
export function preTokenizerOf(json: unknown, options: { action: string }): Scanner[] {
  const { action } = options;
  const refuse = (what: string, is: unknown, must: string) =>
    FormatError.of(action, what, JSON.stringify(is), must);
  if (json === null || json === undefined) return [];
  if (typeof json !== "object") throw refuse("pre_tokenizer", json, "an object or null");
  const step = json as Json;
  switch (step.type) {
    case "Sequence": {
      if (!Array.isArray(step.pretokenizers)) {
        throw refuse("pre_tokenizer.pretokenizers", step.pretokenizers, "an array");
      }
      if (step.pretokenizers.some((inner) => inner?.type === "Sequence")) {
        throw refuse("a step of pre_tokenizer", "Sequence", "Split, Digits or ByteLevel");
      }
      return step.pretokenizers.flatMap((inner) => preTokenizerOf(inner, options));
    }
    case "ByteLevel":
      if (step.add_prefix_space !== false) {
        throw refuse("add_prefix_space of ByteLevel", step.add_prefix_space, "false");
      }
      return step.use_regex === false ? [] : [gpt2];
    case "Digits":
      return [step.individual_digits === true ? singleDigits : digitRuns];
    case "Split":
      return [splitScanner(step, refuse)];
    default:
      throw refuse("the type of a pre_tokenizer step", step.type, "one that is supported");
  }
}

function splitScanner(
  step: Json,
  refuse: (what: string, is: unknown, must: string) => FormatError,
): Scanner {
  const pattern = (step.pattern as Json | null | undefined)?.Regex;
  if (typeof pattern !== "string") {
    throw refuse("the pattern of a Split step", step.pattern, "a Regex");
  }
  const scanner = BY_PATTERN.get(pattern);
  if (scanner === undefined) {
    throw refuse("the pattern of a Split step", pattern, "a published one");
  }
  const isolated = step.behavior === "Isolated" && step.invert === false;
  const kept = step.behavior === "Removed" && step.invert === true && COVERING.has(scanner);
  if (!isolated && !kept) {
    const is = { behavior: step.behavior, invert: step.invert };
    throw refuse("a Split step", is, "isolated, not inverted");
  }
  return scanner;
}
