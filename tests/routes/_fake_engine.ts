/** An engine without a model: it answers with the tokens a test has written down. */

import { CapacityError } from "../../src/errors.ts";
import type {
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
    const { capacity = Infinity, tokenMs = 0, script, vocabSize } = this.#options;
    if (this.running >= capacity) throw new CapacityError("cannot generate: the queue is full");
    const answer = script(request, this.requests.length);
    this.requests.push(request);
    this.running++;
    this.mostRunning = Math.max(this.mostRunning, this.running);
    const promptTokens = request.tokens.length;
    const timings = { queueMs: 0, prefillMs: 1, decodeMs: 1 };
    let completionTokens = 0;
    const done = (reason: "stop" | "length" | "abort"): EngineEvent => ({
      type: "done",
      reason,
      promptTokens,
      completionTokens,
      timings,
    });
    try {
      if (answer[0] instanceof Error && answer.length === 1) throw answer[0];
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
    return { running: this.running - waiting, waiting, promptTokens: 0, completionTokens: 0 };
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
