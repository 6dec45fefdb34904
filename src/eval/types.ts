/** What an evaluation asks, and what comes out. */

import type { TextMessage } from "../text/types.ts";

/** A worked example in front of a question. */
export interface Shot {
  readonly question: string;
  readonly answer: string;
}

/** A problem that is answered in words of the model's own. */
export interface GenerationItem {
  readonly kind: "generation";
  readonly id: string;
  /** What its figures are told apart by: a family, a subject. */
  readonly group?: string;
  /** As a conversation ends with it; raw prompts put it into the set's form. */
  readonly question: string;
  /** The conversation it belongs to, where it is more than the question. */
  readonly messages?: readonly TextMessage[];
  /** Scores of an answer by the name of the metric, from 0 to 1. */
  readonly judge: (answer: string) => Readonly<Record<string, number>>;
}

/** A problem whose choices are compared by their likelihood. */
export interface ChoiceItem {
  readonly kind: "choice";
  readonly id: string;
  readonly group?: string;
  /** What stands in front of each choice, without shots. */
  readonly context: string;
  readonly choices: readonly string[];
  /** The right one's place. */
  readonly gold: number;
}

export type EvalItem = GenerationItem | ChoiceItem;

/** The form of raw prompts: `Question: ...\nAnswer:` and an answer behind a space. */
export interface PromptForm {
  readonly render: (question: string) => string;
  readonly stop: readonly string[];
}

export interface EvalSet {
  readonly name: string;
  /** The file that it was read from, without its folder. */
  readonly data: string;
  readonly items: readonly EvalItem[];
  readonly shots: readonly Shot[];
  readonly form: PromptForm;
  /** Always put as a conversation, through the model's template. */
  readonly chatOnly?: boolean;
  /** What guessing scores: a share of the choices, 0 for answers in words. */
  readonly chance: number;
}

/** How answers are asked for. */
export interface EvalSettings {
  readonly chat: boolean;
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topP: number;
  readonly seed: number;
  /** Answers to each problem, whose scores are averaged. */
  readonly samples: number;
  /** Requests side by side. */
  readonly slots: number;
}

export interface ItemResult {
  readonly id: string;
  readonly group?: string;
  /** By metric, from 0 to 1; a mean over samples. */
  readonly scores: Readonly<Record<string, number>>;
  /** What was answered first, without thinking. */
  readonly answer?: string;
  /** The log-likelihood of each choice. */
  readonly likelihoods?: readonly number[];
  /** Prompt and answer (or the right choice) of the first sample, as token ids. */
  readonly tokens: readonly number[];
  /** Fewer shots than asked for stood in front, since the context holds no more. */
  readonly cut: boolean;
  /** The prompt alone did not fit the context: scored as wrong. */
  readonly tooLong: boolean;
  /** Answers that `maxTokens` ended. */
  readonly unfinished: number;
}

/** Tokens of all requests. */
export interface EvalCounts {
  readonly promptTokens: number;
  /** Of those, tokens that were not computed again. */
  readonly cachedTokens: number;
  readonly answerTokens: number;
  readonly seconds: number;
}
