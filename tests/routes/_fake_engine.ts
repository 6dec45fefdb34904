/** An engine without a model: it answers with the tokens a test has written down. */

import { CapacityError, DeadlineError } from "../../src/errors.ts";
import type {
  CachedTokens,
  Engine,
  EngineEvent,
  EngineInfo,
  EngineStats,
  GenerateRequest,
  RoutedLayerInfo,
  RoutingStats,
  TokenLogprob,
  TokenRouting,
} from "../../src/engine/types.ts";

/** Token ids, or an error that is thrown in their place. */
export type Script = readonly (number | Error)[];

export interface FakeEngineOptions {
  readonly vocabSize: number;
  readonly contextLength?: number;
  readonly slots?: number;
  /** Layers with routed experts; none where nothing is said. */
  readonly routedLayers?: readonly RoutedLayerInfo[];
  /** Requests beyond this many are refused with CapacityError. */
  readonly capacity?: number;
  /** Milliseconds per token. */
  readonly tokenMs?: number;
  /** Prompt tokens that count as cached; none where nothing is said. */
  readonly cached?: (request: GenerateRequest) => CachedTokens;
  /** In place of what `stats` says otherwise. */
  readonly stats?: Partial<EngineStats>;
  /** Milliseconds that every request waits for its slot. */
  readonly queueMs?: number;
  /** What to answer; called for each request, `index` counts them. */
  readonly script: (request: GenerateRequest, index: number) => Script;
}

export class FakeEngine implements Engine {
  readonly info: EngineInfo;
  readonly requests: GenerateRequest[] = [];
  /** Requests in progress now, and the most there ever were. */
  running = 0;
  mostRunning = 0;
  closed = false;
  /** What `routingStats` gives, or throws. */
  routing: RoutingStats | Error = { counting: true, tokens: 0, layers: [] };
  /** How often it was asked for. */
  routingReads = 0;
  readonly #options: FakeEngineOptions;

  constructor(options: FakeEngineOptions) {
    this.#options = options;
    this.info = {
      architecture: "fake",
      modelName: "Fake",
      parameters: 1000,
      activeParameters: 1000,
      quantisation: "F32",
      vocabSize: options.vocabSize,
      contextLength: options.contextLength ?? 256,
      slots: options.slots ?? 2,
      backend: "fake",
      backendChosen: false,
      threads: 1,
      activations: "f32",
      memory: { weights: 1, kv: 1, workspace: 1 },
      conversions: [],
      warnings: [],
      routedLayers: options.routedLayers ?? [],
    };
  }

  async *generate(
    request: GenerateRequest,
    options: { signal?: AbortSignal } = {},
  ): AsyncIterable<EngineEvent> {
    const { capacity = Infinity, tokenMs = 0, queueMs = 0, script, vocabSize } = this.#options;
    if (this.running >= capacity) throw new CapacityError("cannot generate: the queue is full");
    const answer = script(request, this.requests.length);
    this.requests.push(request);
    this.running++;
    this.mostRunning = Math.max(this.mostRunning, this.running);
    const promptTokens = request.tokens.length;
    const cached = this.#options.cached?.(request) ?? { memory: 0, store: 0 };
    const timings = { queueMs, restoreMs: 0, prefillMs: 1, decodeMs: 1 };
    let completionTokens = 0;
    const done = (reason: "stop" | "length" | "abort"): EngineEvent => ({
      type: "done",
      reason,
      promptTokens,
      completionTokens,
      cached,
      speculation: { drafted: 4, accepted: 3 },
      timings,
    });
    try {
      if (answer[0] instanceof Error && answer.length === 1) throw answer[0];
      if (queueMs > 0) await this.#wait(queueMs, { request, signal: options.signal });
      if (options.signal?.aborted) {
        yield done("abort");
        return;
      }
      yield { type: "started", cached };
      yield {
        type: "prompt",
        ...(request.routedExperts === "all" && { routing: this.#routing(request.tokens) }),
        ...(request.promptLogprobs && {
          promptLogprobs: request.tokens.map((token, i) =>
            i === 0 ? null : { chosen: { token, logprob: -i }, top: this.#top(token, request, -i) }
          ),
        }),
      };
      let last: number | undefined;
      for (const token of answer) {
        if (token instanceof Error) throw token;
        if (completionTokens >= request.maxTokens) break;
        if (last !== undefined && request.routedExperts !== undefined) {
          yield { type: "routing", routing: this.#routing([last]) };
        }
        last = token;
        if (request.stopTokens.includes(token)) {
          yield done("stop");
          return;
        }
        await pause(tokenMs, options.signal);
        if (options.signal?.aborted) {
          yield done("abort");
          return;
        }
        completionTokens++;
        const logprob = -0.5 * (token % 7 + 1);
        yield {
          type: "token",
          token: token % vocabSize,
          ...(request.topLogprobs !== undefined && {
            logprob,
            top: this.#top(token, request, logprob),
          }),
        };
      }
      yield done("length");
    } finally {
      this.running--;
    }
  }

  stats(): EngineStats {
    const waiting = Math.max(0, this.running - this.info.slots);
    return {
      running: this.running - waiting,
      waiting,
      promptTokens: 0,
      completionTokens: 0,
      pages: { total: 100, used: 25, kept: 10 },
      preemptions: 2,
      prefixCache: { queried: 200, memory: 60, store: 40 },
      speculation: { drafted: 8, accepted: 6 },
      steps: { bySize: [3, 2, 0, 0, 1], rows: 75 },
      ...this.#options.stats,
    };
  }

  async routingStats(): Promise<RoutingStats> {
    this.routingReads++;
    if (this.routing instanceof Error) throw this.routing;
    return await Promise.resolve(this.routing);
  }

  close(): Promise<void> {
    this.closed = true;
    return Promise.resolve();
  }

  /** Waits as a queue does: until the turn comes, the client leaves or the deadline passes. */
  async #wait(
    ms: number,
    { request, signal }: { request: GenerateRequest; signal?: AbortSignal },
  ): Promise<void> {
    const { deadlineMs = Infinity } = request;
    await pause(Math.min(ms, deadlineMs), signal);
    if (deadlineMs < ms) {
      throw new DeadlineError(`cannot answer: ${deadlineMs} ms have passed, must take less`);
    }
  }

  /** Choice j of a token is expert `token + j`, its weight a tenth of `j + 1`. */
  #routing(tokens: readonly number[]): TokenRouting {
    const each = tokens.flatMap((token) =>
      this.info.routedLayers.flatMap(({ experts, topK }) =>
        Array.from(
          { length: topK },
          (_, j) => ({ id: (token + j) % experts, weight: (j + 1) / 10 }),
        )
      )
    );
    return {
      experts: Int32Array.from(each, ({ id }) => id),
      weights: Float32Array.from(each, ({ weight }) => weight),
    };
  }

  /** The token itself, then its neighbours. */
  #top(token: number, request: GenerateRequest, logprob: number): TokenLogprob[] {
    return Array.from({ length: request.topLogprobs ?? 0 }, (_, i) => ({
      token: (token + i) % this.#options.vocabSize,
      logprob: logprob - i,
    }));
  }
}

/** Waits at least one turn of the event loop, less where the signal aborts. */
function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
