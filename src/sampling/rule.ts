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

/** Numbers of a rule as a backend reads them. */
export const RULE_WORDS = 9;

const DRAWS = 1;
const EDITS = 2;
const SHARES = 4;

/** The rule in RULE_WORDS 32-bit words: flags, integers, and the bits of float32 numbers. */
export function ruleWords(rule: SamplingRule): Int32Array {
  const words = new Int32Array(RULE_WORDS);
  const floats = new Float32Array(words.buffer);
  const { draws, edits, share } = rule;
  words[0] = (draws ? DRAWS : 0) | (edits ? EDITS : 0) | (share === null ? 0 : SHARES);
  words[1] = rule.farthest;
  words[2] = rule.topK;
  words[3] = share ?? 0;
  floats.set([rule.scale, rule.repetition, rule.inverse, rule.frequency, rule.presence], 4);
  return words;
}

/** The reverse of `ruleWords`. */
export function ruleOf(words: Int32Array): SamplingRule {
  const [scale, repetition, inverse, frequency, presence] = new Float32Array(
    words.slice(4, RULE_WORDS).buffer,
  );
  return {
    draws: (words[0] & DRAWS) !== 0,
    edits: (words[0] & EDITS) !== 0,
    farthest: words[1],
    topK: words[2],
    share: (words[0] & SHARES) !== 0 ? words[3] >>> 0 : null,
    ...{ scale, repetition, inverse, frequency, presence },
  };
}
