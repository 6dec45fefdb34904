/**
 * The public face of an engine: submit token ids, get token ids back. Tensors stop at this line;
 * text (tokenizers, templates, stop strings) belongs to the layer above (`src/text/`).
 */

import type { ExpertTraffic, KvType } from "../backend/backend.ts";
import type { BackendChoice } from "../backend/create.ts";
import type { HybridOptions } from "./hybrid_planning.ts";
import type { CacheOptions, StoreState } from "../cache/types.ts";
import type { HybridPlan } from "../experts/hybrid_plan.ts";
import type { PolicyName } from "../experts/policy.ts";
import type { Faults } from "../faults.ts";
import type { SamplingParams } from "../sampling/types.ts";
import type { StepCounts } from "./step_sizes.ts";

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
  /**
   * Report which experts the gates chose, for the answer's tokens or for the prompt's as well.
   * RequestError where the model has no routed experts.
   */
  readonly routedExperts?: "completion" | "all";
  /** Whose turn it is counted to: clients get equal shares of each step. One client where absent. */
  readonly client?: string;
  /** Lower goes first (as in vLLM); 0 where absent. */
  readonly priority?: number;
  /** Milliseconds from submission after which the request fails with a DeadlineError. */
  readonly deadlineMs?: number;
  /**
   * Whose prefixes are used and added to: requests of different tenants never share. Null: what this
   * request computes is not kept, and nothing kept is used. One tenant where absent.
   */
  readonly tenant?: string | null;
}

/** Tokens of a prompt that were not computed, since their keys and values were there already. */
export interface CachedTokens {
  /** From pages in memory. */
  readonly memory: number;
  /** From the store behind them (Deno KV, files). */
  readonly store: number;
}

/**
 * What the gates chose for some tokens. A token's routing is that of its own row: the gates saw its
 * residual stream after it had been fed in. `choices` is the sum of `topK` over
 * `EngineInfo.routedLayers`; a row holds layer after layer, in each the best expert first.
 */
export interface TokenRouting {
  /** [tokens, choices] */
  readonly experts: Int32Array;
  /** [tokens, choices] */
  readonly weights: Float32Array;
}

/** A layer with routed experts. */
export interface RoutedLayerInfo {
  readonly layer: number;
  readonly experts: number;
  readonly topK: number;
}

/** What the gates of one layer have chosen so far, and what paging its experts in has cost. */
export interface LayerRoutingStats extends RoutedLayerInfo {
  /** How often each expert was chosen. */
  readonly load: readonly number[];
  /** Zeros where all of them are resident; undefined where the backend doesn't say. */
  readonly traffic?: Omit<ExpertTraffic, "layer">;
}

export interface RoutingStats {
  /** False where the engine was opened with `countRouting: false`: loads stay zero. */
  readonly counting: boolean;
  /** Tokens counted: every row that was computed, prompts included. */
  readonly tokens: number;
  /** First to last; none in a dense model. */
  readonly layers: readonly LayerRoutingStats[];
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
  /** Of these, milliseconds that the prefix cache's store took. */
  readonly restoreMs: number;
  readonly prefillMs: number;
  readonly decodeMs: number;
}

export type EngineEvent =
  /** The request has a slot and its prompt is about to be evaluated, beginning behind `cached`. */
  | { readonly type: "started"; readonly cached: CachedTokens }
  /** The prompt has been evaluated. `promptLogprobs[i]` belongs to token i; the first is null. */
  | {
    readonly type: "prompt";
    readonly promptLogprobs?: readonly ({ chosen: TokenLogprob; top: TokenLogprob[] } | null)[];
    /** Of all its tokens, with `routedExperts: "all"`. */
    readonly routing?: TokenRouting;
  }
  | {
    readonly type: "token";
    readonly token: number;
    readonly logprob?: number;
    readonly top?: readonly TokenLogprob[];
  }
  /**
   * With `routedExperts`: the routing of the first token of the answer that has had none yet. It comes
   * when that token has been fed in, so behind its token event and before the next one. The last token
   * of an answer is fed in only where a stop token followed it.
   */
  | { readonly type: "routing"; readonly routing: TokenRouting }
  | {
    readonly type: "done";
    readonly reason: FinishReason;
    /** The stop token that ended the answer, where one did. */
    readonly stopToken?: number;
    readonly promptTokens: number;
    /** Token events; a stop token is not one. */
    readonly completionTokens: number;
    readonly cached: CachedTokens;
    /** Tokens that were guessed, and that turned out right; zeros without speculation. */
    readonly speculation: SpeculationCounts;
    readonly timings: Timings;
  };

export interface SpeculationCounts {
  readonly drafted: number;
  readonly accepted: number;
}

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
  /** The engine has chosen the backend; otherwise it was asked for. */
  readonly backendChosen: boolean;
  /** What the GPU calls itself; undefined where none computes. */
  readonly adapter?: string;
  /** Threads of the CPU that compute; of a GPU's backend the one that hands out work. */
  readonly threads: number;
  readonly activations: string;
  readonly memory: { readonly weights: number; readonly kv: number; readonly workspace: number };
  readonly conversions: readonly string[];
  /** What the model's file leaves open and how that was settled, a line each. */
  readonly warnings: readonly string[];
  /** First to last; none in a dense model. */
  readonly routedLayers: readonly RoutedLayerInfo[];
  /** What was planned for the GPU and the CPU together, where the model lies on both. */
  readonly hybrid?: HybridPlan;
}

export interface EngineStats {
  readonly running: number;
  readonly waiting: number;
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** Pages of the KV cache: all, those of running requests, those kept for later ones. */
  readonly pages: { readonly total: number; readonly used: number; readonly kept: number };
  /** Sequences that gave way to others and went on later. */
  readonly preemptions: number;
  /** Prompt tokens that were looked for in the prefix cache, and found. */
  readonly prefixCache: CachedTokens & { readonly queried: number };
  /** What lies behind the pages in memory; undefined where nothing does. */
  readonly store?: StoreState;
  readonly speculation: SpeculationCounts;
  /** Steps that were computed, by their rows. */
  readonly steps: StepCounts;
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
  /** How the gates have routed since the model was opened. Rejects where the engine has ended. */
  routingStats(): Promise<RoutingStats>;
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
  /** "auto": the GPU where a hardware adapter is found, else the WASM kernels. */
  readonly backend: BackendChoice;
  /** `backend` is what "auto" has come to. */
  readonly backendChosen?: boolean;
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
  /** How keys and values are kept; "f16" where nothing is said. */
  readonly kvType?: KvType;
  /** Bytes of the KV cache; 1 GiB, and at most a quarter of `memoryBytes`, where nothing is said. */
  readonly kvBytes?: number;
  /** Where prefixes are kept beyond the process; in memory only where nothing is said. */
  readonly cache?: CacheOptions;
  /** Use what earlier requests computed; true where nothing is said. Equal prompts at once share anyway. */
  readonly reusePrefixes?: boolean;
  /** Guess tokens by looking up n-grams (prompt look-up); off where nothing is said. */
  readonly speculation?: "off" | "ngram";
  /** Bytes for everything the model holds; routed experts are paged in where that is too little. */
  readonly memoryBytes?: number;
  /** Bytes that weights, cache and workspace may take on the GPU; unlimited where nothing is said. */
  readonly gpuBytes?: number;
  /** How the hybrid backend splits a model. */
  readonly hybrid?: HybridOptions;
  /** Bytes for the routed experts that are kept in memory. */
  readonly expertCacheBytes?: number;
  /** Which expert leaves when another one must come in. */
  readonly expertPolicy?: PolicyName;
  /** For files that don't say in which groups a token's experts must lie. */
  readonly expertGroups?: ExpertGroups;
  /**
   * Count what the gates choose, for `routingStats`; true where nothing is said. It takes 4 microseconds
   * a step with 5 routed layers of 24 experts, 20 with 58 of 256.
   */
  readonly countRouting?: boolean;
  /** What is to fail on purpose, for tests; see `parseFaults`. */
  readonly faults?: Faults;
}

/** Group-limited routing: experts in `count` equal groups, of which a token uses the `used` best. */
export interface ExpertGroups {
  readonly count: number;
  readonly used: number;
}

export type LoadProgress = (progress: { loadedBytes: number; totalBytes: number }) => void;
