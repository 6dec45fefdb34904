/**
 * Text in, text out: what routes and terminals know of a model. Below this line there are token ids
 * (`src/engine`), above it there is HTTP or a terminal.
 */

import type {
  CachedTokens,
  EngineInfo,
  EngineStats,
  GenerateRequest,
  RoutingStats,
  SpeculationCounts,
  Timings,
  TokenRouting,
} from "../engine/types.ts";
import type { SamplingParams } from "../sampling/types.ts";

/** One message of a conversation, as chat templates read it. */
export interface TextMessage {
  readonly role: "system" | "developer" | "user" | "assistant" | "tool";
  readonly content: string;
  /** What an assistant thought before it answered; templates that know the field use it. */
  readonly reasoning?: string;
  readonly name?: string;
  readonly toolCallId?: string;
}

/** A prompt as the engine takes it, checked against the context length. */
export interface Prompt {
  readonly tokens: readonly number[];
  /** The prompt's text as it was given, or decoded from the ids that were given. */
  readonly text: string;
  /** How many tokens in front stand for nothing in `text` (BOS). */
  readonly prefixTokens: number;
  /** Split the answer at `</think>`; `inside` where the prompt itself opened the thinking. */
  readonly reasoning: "none" | "outside" | "inside";
}

/** A token as text. */
export interface TokenPiece {
  readonly token: number;
  /** Its text alone; bytes that are no whole UTF-8 become U+FFFD. */
  readonly text: string;
  readonly bytes: Uint8Array;
}

export interface ScoredPiece extends TokenPiece {
  readonly logprob: number;
}

/** A token with its log-probability and the most likely alternatives, most likely first. */
export interface TokenScore {
  readonly chosen: ScoredPiece;
  readonly top: readonly ScoredPiece[];
  /** Where the token's text begins in the answer (or prompt) it belongs to, in code points. */
  readonly offset: number;
  /** The token was thinking. */
  readonly reasoning: boolean;
}

/** A prompt's token has no score where nothing came before it. */
export type PromptScore = TokenScore | { readonly chosen: TokenPiece; readonly offset: number };

export interface Usage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** How many of the completion's tokens were thinking. */
  readonly reasoningTokens: number;
}

export type TextEvent =
  /** The request has a slot, and evaluating its prompt begins behind what was cached. */
  | { readonly type: "started"; readonly cached: CachedTokens }
  /**
   * The prompt has been evaluated; `scores` where `scorePrompt` asked for them, `routing` of all its
   * tokens with `routedExperts: "all"`.
   */
  | {
    readonly type: "prompt";
    readonly scores?: readonly PromptScore[];
    readonly routing?: TokenRouting;
  }
  /** More of the answer; texts may be empty where only scores have become certain. */
  | {
    readonly type: "delta";
    readonly content: string;
    readonly reasoning: string;
    readonly scores: readonly TokenScore[];
    /**
     * With `routedExperts`: of tokens of the answer in their order, each as soon as it has been fed in,
     * which is with the token after it. A stop string cuts text off, and no routing.
     */
    readonly routing?: readonly TokenRouting[];
    /** Of the answer up to here. */
    readonly usage: Usage;
  }
  | {
    readonly type: "done";
    readonly reason: "stop" | "length";
    /** The stop string that ended the answer, where one did. */
    readonly stopString?: string;
    readonly usage: Usage;
    readonly cached: CachedTokens;
    /** Zeros where a stop string ended the answer before the engine said. */
    readonly speculation: SpeculationCounts;
    /** The engine's; measured here, without `restoreMs`, where a stop string ended the answer first. */
    readonly timings: Timings;
  };

export interface TextOptions
  extends Pick<GenerateRequest, "client" | "priority" | "deadlineMs" | "tenant"> {
  readonly sampling: SamplingParams;
  /** Undefined: as many as the context holds. */
  readonly maxTokens?: number;
  /** The answer's content ends before the first of these. */
  readonly stop?: readonly string[];
  /** Alternatives per token; undefined: no log-probabilities. */
  readonly topLogprobs?: number;
  /** Score the prompt's own tokens as well (with `topLogprobs`). */
  readonly scorePrompt?: boolean;
  /** Tell which experts the gates chose. Throws RequestError where the model has none. */
  readonly routedExperts?: GenerateRequest["routedExperts"];
  /** Go on where the model would end its answer. */
  readonly ignoreEos?: boolean;
  readonly signal?: AbortSignal;
}

export interface TextPromptOptions {
  /** Put the tokens before the text that the tokenizer puts there (BOS). Default true. */
  readonly addSpecial?: boolean;
  /** Read `<|im_start|>` and its like as control tokens. Default false: they are plain text. */
  readonly parseSpecial?: boolean;
}

/** What a tokenizer tells clients about itself. */
export interface TokenizerFacts {
  readonly bosToken: string | null;
  readonly eosToken: string | null;
  readonly padToken: string | null;
  readonly chatTemplate: string | null;
}

/** An opened model that speaks text. */
export interface TextModel {
  readonly info: EngineInfo;
  readonly tokenizerFacts: TokenizerFacts;
  /** False where the model's file has no chat template, so that conversations follow ChatML. */
  readonly hasTemplate: boolean;
  /** How the model's makers say to sample where the asker does not; empty where they say nothing. */
  readonly defaultSampling: Partial<SamplingParams>;
  /** Encodes a text, or takes token ids. Throws RequestError where there are no tokens. */
  textPrompt(prompt: string | readonly number[], options?: TextPromptOptions): Promise<Prompt>;
  /** Renders a conversation through the template. Throws RequestError where that refuses it. */
  chatPrompt(messages: readonly TextMessage[]): Promise<Prompt>;
  /** Throws RequestError naming both numbers where prompt and answer exceed the context. */
  checkLength(prompt: Prompt, options: { maxTokens?: number; param: string }): void;
  /**
   * Answers a prompt. The iteration throws what the engine throws; leaving it or aborting the signal
   * ends the request.
   */
  answer(prompt: Prompt, options: TextOptions): AsyncIterable<TextEvent>;
  encode(text: string, options?: TextPromptOptions): Promise<number[]>;
  decode(tokens: readonly number[]): string;
  stats(): EngineStats;
  /** How the gates have routed since the model was opened. */
  routingStats(): Promise<RoutingStats>;
  close(): Promise<void>;
}
