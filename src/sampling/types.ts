/** How the next token is chosen. All fields have neutral values; `NEUTRAL_SAMPLING` is greedy. */

export interface SamplingParams {
  /** 0 is greedy. */
  readonly temperature: number;
  /** Keep the k most likely; 0 keeps all. */
  readonly topK: number;
  /** Nucleus: keep the smallest set whose probability reaches this (Holtzman et al. 2020); 1 keeps all. */
  readonly topP: number;
  /** Keep tokens at least this share as likely as the most likely one; 0 keeps all. */
  readonly minP: number;
  /** Divides positive and multiplies negative logits of tokens seen in prompt or answer (Keskar et al. 2019); 1 is off. */
  readonly repetitionPenalty: number;
  /** Subtracted once from tokens that occurred in the answer. */
  readonly presencePenalty: number;
  /** Subtracted per occurrence in the answer. */
  readonly frequencyPenalty: number;
  /** Added to logits by token id. */
  readonly logitBias: readonly (readonly [token: number, bias: number])[];
  /** Seeds the sequence's own generator; undefined draws one. */
  readonly seed?: number;
}

export const NEUTRAL_SAMPLING: SamplingParams = Object.freeze({
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: [],
});
