/**
 * The chain that stands between logits and a choice. Order, as in vLLM: logit_bias, repetition
 * penalty, frequency and presence penalties, temperature, min_p, top_k, top_p. Each filter sees
 * probabilities after temperature, renormalised over what the filters before it kept.
 */

import type { Candidates } from "./candidates.ts";
import type { SamplingParams } from "./types.ts";

/** What a sequence has said so far, as far as processors ask. */
export interface TokenHistory {
  /** Tokens of the prompt and the answer. */
  readonly seen: ReadonlySet<number>;
  /** Occurrences in the answer. */
  readonly answerCounts: ReadonlyMap<number, number>;
}

/** A stateless edit of the candidates for the next token. */
export interface LogitsProcessor {
  /** The wire name of the parameter it stands for. */
  readonly name: string;
  process(candidates: Candidates, history: TokenHistory): void;
}

/** Processors that change which token is most likely; also used by greedy decoding. */
export function createEdits(params: SamplingParams): LogitsProcessor[] {
  const edits: LogitsProcessor[] = [];
  if (params.logitBias.length > 0) edits.push(logitBias(params.logitBias));
  if (params.repetitionPenalty !== 1) edits.push(repetitionPenalty(params.repetitionPenalty));
  if (params.frequencyPenalty !== 0) edits.push(frequencyPenalty(params.frequencyPenalty));
  if (params.presencePenalty !== 0) edits.push(presencePenalty(params.presencePenalty));
  return edits;
}

/** Temperature and the filters after it; empty where decoding is greedy. */
export function createFilters(params: SamplingParams): LogitsProcessor[] {
  if (params.temperature === 0) return [];
  const filters = [temperature(params.temperature)];
  if (params.minP > 0) filters.push(minP(params.minP));
  if (params.topK > 0) filters.push(topK(params.topK));
  if (params.topP < 1) filters.push(topP(params.topP));
  return filters;
}

function logitBias(bias: SamplingParams["logitBias"]): LogitsProcessor {
  return {
    name: "logit_bias",
    process({ logits }) {
      for (const [token, amount] of bias) logits[token] += amount;
    },
  };
}

function repetitionPenalty(penalty: number): LogitsProcessor {
  return {
    name: "repetition_penalty",
    process({ logits }, { seen }) {
      for (const token of seen) {
        logits[token] = logits[token] > 0 ? logits[token] / penalty : logits[token] * penalty;
      }
    },
  };
}

function frequencyPenalty(penalty: number): LogitsProcessor {
  return {
    name: "frequency_penalty",
    process({ logits }, { answerCounts }) {
      for (const [token, count] of answerCounts) logits[token] -= penalty * count;
    },
  };
}

function presencePenalty(penalty: number): LogitsProcessor {
  return {
    name: "presence_penalty",
    process({ logits }, { answerCounts }) {
      for (const token of answerCounts.keys()) logits[token] -= penalty;
    },
  };
}

function temperature(value: number): LogitsProcessor {
  return { name: "temperature", process: (candidates) => candidates.scale(value) };
}

function minP(share: number): LogitsProcessor {
  // p_i >= share * p_max, and the best scaled logit is 0.
  const threshold = Math.log(share);
  return { name: "min_p", process: (candidates) => candidates.keepAtLeast(threshold) };
}

function topK(k: number): LogitsProcessor {
  return { name: "top_k", process: (candidates) => candidates.keepMostLikely(k) };
}

function topP(share: number): LogitsProcessor {
  return { name: "top_p", process: (candidates) => candidates.keepNucleus(share) };
}
