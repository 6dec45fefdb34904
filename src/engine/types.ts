/**
 * The public face of an engine: submit token ids, get token ids back. Tensors stop at this line;
 * text (tokenizers, templates, stop strings) belongs to the layer above (`src/text/`).
 */

import type { SamplingParams } from "../sampling/types.ts";

export interface GenerateRequest {
  /** Prompt token ids; at least one. */
  readonly tokens: readonly number[];
  readonly sampling: SamplingParams;
  /** Tokens to generate at most; 0 evaluates the prompt only. */
  readonly maxTokens: number;
  /** Ids that end the answer (they are not emitted as tokens). */
  readonly stopTokens: readonly number[];
  /** How many most likely alternatives come with each token; undefined: no log-probabilities. */
  readonly topLogprobs?: number;
  /** Also report log-probabilities of the prompt's own tokens (with `topLogprobs`). */
  readonly promptLogprobs?: boolean;
}

export interface TokenLogprob {
  readonly token: number;
  /** Natural log of the probability before temperature and filters (softmax of the raw logits). */
  readonly logprob: number;
}

export type FinishReason = "stop" | "length" | "abort";

export interface Timings {
  /** Milliseconds from submission to the first step that worked on the request. */
  readonly queueMs: number;
  readonly prefillMs: number;
  readonly decodeMs: number;
}

export type EngineEvent =
  /** The prompt has been evaluated. `promptLogprobs[i]` belongs to token i; the first is null. */
  | {
    readonly type: "prompt";
    readonly promptLogprobs?: readonly ({ chosen: TokenLogprob; top: TokenLogprob[] } | null)[];
  }
  | {
    readonly type: "token";
    readonly token: number;
    readonly logprob?: number;
    readonly top?: readonly TokenLogprob[];
  }
  | {
    readonly type: "done";
    readonly reason: FinishReason;
    /** The stop token that ended the answer, where one did. */
    readonly stopToken?: number;
    readonly promptTokens: number;
    /** Token events; a stop token is not one. */
    readonly completionTokens: number;
    readonly timings: Timings;
  };

export interface EngineInfo {
  readonly architecture: string;
  readonly modelName: string;
  readonly parameters: number;
  readonly activeParameters: number;
  /** Most frequent type by bytes, e.g. "Q4_1". */
  readonly quantisation: string;
  readonly vocabSize: number;
  /** Tokens a sequence may hold, prompt and answer together. */
  readonly contextLength: number;
  /** Sequences that run side by side. */
  readonly slots: number;
  readonly backend: string;
  readonly threads: number;
  readonly activations: string;
  readonly memory: { readonly weights: number; readonly kv: number; readonly workspace: number };
  readonly conversions: readonly string[];
}

export interface EngineStats {
  readonly running: number;
  readonly waiting: number;
  readonly promptTokens: number;
  readonly completionTokens: number;
}

export interface Engine {
  readonly info: EngineInfo;
  /**
   * Runs a request. Iterating gives its events; the iteration throws RequestError (bad ids, too long),
   * CapacityError (queue full) or the fault that stopped the engine. Leaving the loop or aborting the
   * signal frees the slot within one step.
   */
  generate(
    request: GenerateRequest,
    options?: { signal?: AbortSignal },
  ): AsyncIterable<EngineEvent>;
  stats(): EngineStats;
  /** Refuses new requests, lets the others finish within the grace, aborts what is left; idempotent. */
  close(options?: CloseOptions): Promise<void>;
}

export interface CloseOptions {
  /** Milliseconds that requests get to finish; 5000 where nothing is said. */
  readonly graceMs?: number;
}

/** How to open a model; what `deno task start` passes and embedding programs may. */
export interface EngineOptions {
  /** Path of a GGUF file, a safetensors file or a Hugging Face folder. */
  readonly model: string;
  readonly backend: "wasm" | "reference";
  readonly activations: "q8" | "q16" | "f32";
  readonly threads: number;
  /** Tokens per sequence; undefined: the model's own, bounded by what memory allows. */
  readonly contextLength?: number;
  /** Sequences that run side by side. */
  readonly slots: number;
  /** Prompt tokens per step. */
  readonly chunkTokens: number;
  /** Requests that may wait for a slot; 256 where nothing is said. */
  readonly maxWaiting?: number;
}

export type LoadProgress = (progress: { loadedBytes: number; totalBytes: number }) => void;
