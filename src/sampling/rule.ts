/**
 * Sampling parameters as the numbers that choosing computes with, and the order in which they are used:
 * logit_bias, repetition penalty, frequency and presence penalties, temperature, min_p, top_k, top_p, as
 * in vLLM. Each filter sees probabilities after temperature, renormalised over what those before it kept.
 */

import { farthestStep, settled, STEPS, stepScale } from "./weights.ts";
import type { SamplingParams } from "./types.ts";

/** How the tokens of one request are chosen. Fractions are float32. */
export interface SamplingRule {
  /** A token is drawn; else it is the most likely one. */
  readonly draws: boolean;
  /** Logits are edited: there are biases or penalties. */
  readonly edits: boolean;
  /** Steps per unit of logits. */
  readonly scale: number;
  /** Tokens farther from the best are out. */
  readonly farthest: number;
  /** Tokens kept at most. */
  readonly topK: number;
  /** Share of the total weight that is kept, in 2^-32; null for all. */
  readonly share: number | null;
  /** Factors on negative and on positive logits of tokens that were seen. */
  readonly repetition: number;
  readonly inverse: number;
  /** Subtracted for each occurrence in the answer, and once. */
  readonly frequency: number;
  readonly presence: number;
}

const MOST = 2 ** 31 - 1;

export function createRule(params: SamplingParams): SamplingRule {
  const { temperature, minP, topK, topP, repetitionPenalty, logitBias } = params;
  const { frequencyPenalty, presencePenalty } = params;
  const draws = temperature > 0;
  return {
    draws,
    edits: logitBias.length > 0 || repetitionPenalty !== 1 || frequencyPenalty !== 0 ||
      presencePenalty !== 0,
    scale: draws ? stepScale(temperature) : 1,
    farthest: minP > 0 ? farthestStep(minP) : STEPS - 1,
    topK: topK === 0 ? MOST : Math.min(topK, MOST),
    share: topP < 1 ? Math.min(Math.round(topP * 2 ** 32), 2 ** 32 - 1) : null,
    repetition: settled(repetitionPenalty),
    inverse: settled(1 / repetitionPenalty),
    frequency: settled(frequencyPenalty),
    presence: settled(presencePenalty),
  };
}

/** In a tally: the token occurred in prompt or answer. Below it, how often it did in the answer. */
export const SEEN = 2 ** 30;

/** A token's logit after biases and penalties; -Infinity where it is excluded. */
export function editedLogit(
  logit: number,
  { rule, tally, bias }: { rule: SamplingRule; tally: number; bias: number },
): number {
  let value = settled(settled(logit) + bias);
  if ((tally & SEEN) !== 0) value = settled(value * (value > 0 ? rule.inverse : rule.repetition));
  const count = tally & (SEEN - 1);
  if (count === 0) return value;
  // A product is rounded before it is subtracted.
  return settled(settled(value - settled(count * rule.frequency)) - rule.presence);
}

/** Where a rule's numbers are among the words that a backend reads. */
export const RULE_AT = {
  flags: 0,
  farthest: 1,
  topK: 2,
  share: 3,
  scale: 4,
  repetition: 5,
  inverse: 6,
  frequency: 7,
  presence: 8,
} as const;

export const RULE_WORDS = 9;

/** Bits of the flags: what the rule does, and that there is a share. */
export const RULE_FLAGS = { draws: 1, edits: 2, shares: 4 } as const;

/** The rule in RULE_WORDS 32-bit words: flags, integers, and the bits of float32 numbers. */
export function ruleWords(rule: SamplingRule): Int32Array {
  const words = new Int32Array(RULE_WORDS);
  const { draws, edits, share } = rule;
  words[RULE_AT.flags] = (draws ? RULE_FLAGS.draws : 0) | (edits ? RULE_FLAGS.edits : 0) |
    (share === null ? 0 : RULE_FLAGS.shares);
  words[RULE_AT.farthest] = rule.farthest;
  words[RULE_AT.topK] = rule.topK;
  words[RULE_AT.share] = share ?? 0;
  const { scale, repetition, inverse, frequency, presence } = rule;
  const floats = [scale, repetition, inverse, frequency, presence];
  new Float32Array(words.buffer).set(floats, RULE_AT.scale);
  return words;
}

/** The reverse of `ruleWords`. */
export function ruleOf(words: Int32Array): SamplingRule {
  const floats = new Float32Array(words.slice(RULE_AT.scale, RULE_WORDS).buffer);
  const [scale, repetition, inverse, frequency, presence] = floats;
  const flags = words[RULE_AT.flags];
  return {
    draws: (flags & RULE_FLAGS.draws) !== 0,
    edits: (flags & RULE_FLAGS.edits) !== 0,
    farthest: words[RULE_AT.farthest],
    topK: words[RULE_AT.topK],
    share: (flags & RULE_FLAGS.shares) !== 0 ? words[RULE_AT.share] >>> 0 : null,
    ...{ scale, repetition, inverse, frequency, presence },
  };
}
