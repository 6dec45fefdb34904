/** What the kernels of choosing and sampling tell each other, and where it lies. */

import type { ChooseParams } from "../../backend.ts";
import { RULE_AT, RULE_WORDS } from "../../../sampling/rule.ts";
import { STEPS } from "../../../sampling/weights.ts";
import type { Binding } from "../kernel.ts";
import { bufferOf } from "../memory.ts";
import type { OpContext } from "./context.ts";

/** Threads of a workgroup. */
export const LANES = 256;
/** Tokens that one workgroup looks at. */
export const SEGMENT = 4096;

export function segmentsOf({ logits: { width } }: ChooseParams): number {
  return Math.ceil(width / SEGMENT);
}

/** Words that a segment leaves in `best`: the best key, its token, and whether a logit was none. */
export const BEST_WORDS = 3;
/** Every token's key comes before this one's, a larger number. */
export const NO_KEY = "0u";
/** The key of a token that has been drawn: it comes before every other. */
export const DRAWN_KEY = "0xffffffffu";

/** The bits of -Infinity: the logit of an excluded token. */
export const EXCLUDED = "0xff800000u";
/** In place of a distance, of tokens that are out. */
export const OUT = "0xffffffffu";

/** Bits of a distance that the second level of a selection looks at; the first has the others. */
export const LOW_BITS = 11;
export const LOWS = 1 << LOW_BITS;
export const HIGHS = STEPS / LOWS;

/** Where the parts of a row's `work` begin. */
export const WORK = {
  /** Tokens by the high bits of their distances, and their weights, two words each. */
  counts: 0,
  weights: HIGHS,
  /** Tokens by low bits, of those with the high bits of top_k's border and of top_p's. */
  topKLows: 3 * HIGHS,
  topPLows: 3 * HIGHS + LOWS,
  /** High bits of top_p's border, whether they are those of top_k's, the weight before, and that to reach. */
  high: 3 * HIGHS + 2 * LOWS,
  isTopK: 3 * HIGHS + 2 * LOWS + 1,
  before: 3 * HIGHS + 2 * LOWS + 2,
  goal: 3 * HIGHS + 2 * LOWS + 4,
  /** The border's distance, and how many tokens on it are kept. */
  step: 3 * HIGHS + 2 * LOWS + 6,
  ties: 3 * HIGHS + 2 * LOWS + 7,
  /** Of each segment: the weight of its tokens before the border, two words, and its tokens on it. */
  segments: 3 * HIGHS + 2 * LOWS + 8,
} as const;
export const SEGMENT_WORDS = 3;
/** Words that are 0 when a row's sampling begins. */
export const CLEARED = WORK.segments;

/** Words of a row's `work`. */
export function workWords(params: ChooseParams): number {
  return WORK.segments + segmentsOf(params) * SEGMENT_WORDS;
}

export function workBinding(
  context: OpContext,
  { params, ...binding }: { params: ChooseParams } & Pick<Binding, "type" | "write">,
): Binding {
  const buffer = context.scratch("sampling", params.rows * workWords(params) * 4);
  return { name: "work", buffer, ...binding };
}

/** A buffer as 32-bit words. */
export function words(name: string, of: ChooseParams["logits"]): Binding {
  return { name, buffer: bufferOf(of).memory, type: "array<u32>" };
}

/** What `ruleAt` reads. */
export function ruleBindings({ sequences, sampling }: ChooseParams): Binding[] {
  return [words("sequences", sequences), words("rules", sampling!.rules)];
}

/** WGSL of a number of a row's rule. */
export function ruleAt(row: string, name: keyof typeof RULE_AT): string {
  return `rules[sequences[${row}] * ${RULE_WORDS}u + ${RULE_AT[name]}u]`;
}
