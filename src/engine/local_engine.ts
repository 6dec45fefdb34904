/**
 * The engine in the present thread: one loop that asks the scheduler for a step, runs it, chooses
 * tokens and hands them out, with a turn of the event loop between steps so that new requests and
 * aborts come in. A worker runs it in a server; programs without workers use it directly.
 */

import { BackendLostError, CapacityError } from "../errors.ts";
import { Candidates } from "../sampling/candidates.ts";
import { tokenLogprobs } from "../sampling/logprobs.ts";
import { Sampler } from "../sampling/sampler.ts";
import { EventLoopTurn } from "./event_loop.ts";
import { type EventSink, EventStream } from "./event_stream.ts";
import { DEFAULT_GRACE_MS, DEFAULT_MAX_WAITING } from "./limits.ts";
import { PagePool } from "./pages.ts";
import { checkRequest } from "./request.ts";
import { RoutingCounter, RoutingRows, type StepRouting } from "./routing.ts";
import { Scheduler, type Step, type StepRow } from "./scheduler.ts";
import type { StepRunner } from "./step_runner.ts";
import type {
  CloseOptions,
  Engine,
  EngineEvent,
  EngineInfo,
  EngineStats,
  FinishReason,
  GenerateRequest,
  RoutingStats,
  Timings,
  TokenLogprob,
} from "./types.ts";

export interface LocalEngineOptions {
  readonly info: EngineInfo;
  readonly runner: Pick<StepRunner, "run" | "readRouting" | "expertTraffic" | "close">;
  /** Prompt tokens per step. */
  readonly chunkTokens: number;
  /** Rows of a step that may want logits; at least the slots. */
  readonly logitRows: number;
  /** Pages of the runner's KV cache. */
  readonly pages: number;
  /** Requests that may wait for a slot; DEFAULT_MAX_WAITING where nothing is said. */
  readonly maxWaiting?: number;
  /** Count what the gates choose; true where nothing is said. */
  readonly countRouting?: boolean;
  /** Called when the backend is lost: every later step fails, so open the model anew. */
  readonly onLost?: (error: Error) => void;
  /** Called when the events of a step have been handed out. */
  readonly onStepEnd?: () => void;
}

type PromptLogprob = { chosen: TokenLogprob; top: TokenLogprob[] } | null;

/** A request from its submission to its last event. */
interface LiveRequest {
  readonly id: number;
  readonly request: GenerateRequest;
  readonly maxTokens: number;
  readonly stopTokens: ReadonlySet<number>;
  readonly sampler: Sampler;
  readonly sink: EventSink;
  readonly promptLogprobs: PromptLogprob[] | null;
  readonly promptRouting: RoutingRows | null;
  generated: number;
  /** Rows that have been taken; a sequence that gave way has some of them computed again. */
  rowsTaken: number;
  readonly submittedAt: number;
  startedAt: number | null;
  promptAt: number | null;
  /** Takes the listener off the caller's signal. */
  readonly release: () => void;
}

/** Runs requests on a model in this thread. */
export class LocalEngine implements Engine {
  readonly info: EngineInfo;
  readonly #options: LocalEngineOptions;
  readonly #scheduler: Scheduler;
  readonly #candidates: Candidates;
  readonly #counter: RoutingCounter;
  readonly #counting: boolean;
  readonly #turn = new EventLoopTurn();
  readonly #live = new Map<number, LiveRequest>();
  readonly #loop: Promise<void>;
  #nextId = 1;
  #promptTokens = 0;
  #completionTokens = 0;
  /** Resolves what the loop, or `close`, waits for. */
  #onWork: (() => void) | null = null;
  #onIdle: (() => void) | null = null;
  #closing: Promise<void> | null = null;
  #stopped = false;

  constructor(options: LocalEngineOptions) {
    this.#options = options;
    this.info = options.info;
    this.#scheduler = new Scheduler({
      slots: options.info.slots,
      chunkTokens: options.chunkTokens,
      logitRows: options.logitRows,
      pages: new PagePool(options.pages),
    });
    this.#candidates = new Candidates(options.info.vocabSize);
    this.#counter = new RoutingCounter(options.info.routedLayers);
    this.#counting = (options.countRouting ?? true) && options.info.routedLayers.length > 0;
    this.#loop = this.#run();
  }

  generate(
    request: GenerateRequest,
    options: { signal?: AbortSignal } = {},
  ): AsyncIterable<EngineEvent> {
    return { [Symbol.asyncIterator]: () => this.#stream(request, options.signal) };
  }

  /**
   * Queues a request whose events go straight to `sink`, during the step that makes them. Returns a
   * number for `abort`. What is wrong with the request goes to `sink.fail` at once.
   */
  submit(request: GenerateRequest, sink: EventSink, signal?: AbortSignal): number {
    const id = this.#nextId++;
    try {
      this.#add(id, { request, sink, signal });
    } catch (error) {
      sink.fail(error);
    }
    return id;
  }

  /** Ends a request, waiting or running, with the reason "abort"; does nothing once it has ended. */
  abort(id: number): void {
    const live = this.#live.get(id);
    if (live !== undefined) this.#finish(live, "abort");
  }

  stats(): EngineStats {
    return {
      running: this.#scheduler.running,
      waiting: this.#scheduler.waiting,
      promptTokens: this.#promptTokens,
      completionTokens: this.#completionTokens,
    };
  }

  routingStats(): Promise<RoutingStats> {
    const traffic = this.#options.runner.expertTraffic();
    return Promise.resolve(this.#counter.stats({ counting: this.#counting, traffic }));
  }

  /** Refuses new requests, lets the others finish within the grace, aborts what is left. */
  close(options: CloseOptions = {}): Promise<void> {
    this.#closing ??= this.#shutDown(options.graceMs ?? DEFAULT_GRACE_MS);
    return this.#closing;
  }

  #stream(request: GenerateRequest, signal?: AbortSignal): EventStream {
    let id = 0;
    const stream = new EventStream(() => this.#drop(id));
    id = this.submit(request, stream, signal);
    return stream;
  }

  #add(
    id: number,
    options: { request: GenerateRequest; sink: EventSink; signal?: AbortSignal },
  ): void {
    const { request, sink, signal } = options;
    if (this.#closing !== null) {
      throw new CapacityError("cannot generate: the engine is closing, must be open");
    }
    const { contextLength, vocabSize, routedLayers } = this.info;
    const { pages, maxWaiting = DEFAULT_MAX_WAITING } = this.#options;
    const routes = routedLayers.length > 0;
    const plan = checkRequest(request, { contextLength, vocabSize, pages, routes });
    // A request that finds a free slot does not wait, so it counts only where none is free.
    const { running, waiting } = this.#scheduler;
    if (running + waiting >= this.info.slots + maxWaiting) {
      throw new CapacityError(
        `cannot queue a request: ${waiting} requests are waiting, must be fewer than ` +
          `${maxWaiting}`,
      );
    }
    const abort = () => this.abort(id);
    const withPromptLogprobs = request.promptLogprobs === true &&
      request.topLogprobs !== undefined;
    const live: LiveRequest = {
      id,
      request,
      maxTokens: plan.maxTokens,
      stopTokens: new Set(request.stopTokens),
      sampler: new Sampler({
        params: request.sampling,
        prompt: request.tokens,
        candidates: this.#candidates,
      }),
      sink,
      promptLogprobs: withPromptLogprobs ? [null] : null,
      promptRouting: request.routedExperts === "all"
        ? new RoutingRows(routedLayers, request.tokens.length)
        : null,
      generated: 0,
      rowsTaken: 0,
      submittedAt: performance.now(),
      startedAt: null,
      promptAt: null,
      release: () => signal?.removeEventListener("abort", abort),
    };
    this.#live.set(id, live);
    if (signal?.aborted) {
      this.#finish(live, "abort");
      return;
    }
    signal?.addEventListener("abort", abort);
    this.#scheduler.add({
      id,
      prompt: request.tokens,
      maxTokens: plan.totalTokens,
      answers: plan.maxTokens > 0,
      promptLogits: withPromptLogprobs,
    });
    this.#onWork?.();
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const step = this.#scheduler.next();
      if (step === null) {
        await new Promise<void>((resolve) => this.#onWork = resolve);
        this.#onWork = null;
        continue;
      }
      await this.#runStep(step);
      this.#options.onStepEnd?.();
      await this.#turn.wait();
    }
  }

  async #runStep(step: Step): Promise<void> {
    const now = performance.now();
    for (const row of step.rows) {
      const live = this.#live.get(row.sequence);
      if (live !== undefined) live.startedAt ??= now;
    }
    let logits: Float32Array;
    let routing: StepRouting | null;
    try {
      logits = await this.#options.runner.run(step);
      routing = await this.#readRouting(step);
    } catch (error) {
      // What a lost backend held of the other sequences is gone too.
      const lost = error instanceof BackendLostError;
      if (lost) this.#options.onLost?.(error);
      const ended = lost ? [...this.#live.keys()] : step.rows.map((row) => row.sequence);
      for (const sequence of ended) this.#fail(sequence, error);
      return;
    }
    const { vocabSize } = this.info;
    let start = 0;
    for (const [index, row] of step.rows.entries()) {
      const rowLogits = row.wantsLogits ? logits.subarray(start, start + vocabSize) : null;
      if (rowLogits !== null) start += vocabSize;
      const live = this.#live.get(row.sequence);
      // Aborted while the step ran.
      if (live === undefined) continue;
      try {
        this.#takeRow(live, { row, index, logits: rowLogits, routing });
      } catch (error) {
        this.#fail(row.sequence, error);
      }
    }
  }

  /** What the gates chose in the step; null where nobody wants to know. */
  async #readRouting({ rows }: Step): Promise<StepRouting | null> {
    const weights = rows.some((row) => {
      const live = this.#live.get(row.sequence);
      return live !== undefined && wantsRouting(live.request, row.position);
    });
    if (!weights && !this.#counting) return null;
    const routing = await this.#options.runner.readRouting(rows.length, { weights });
    if (this.#counting) this.#counter.add(routing, rows.length);
    return routing;
  }

  /**
   * Does what follows from a computed row: a prompt token's score, a token's routing, the end of the
   * prompt, a token.
   */
  #takeRow(
    live: LiveRequest,
    { row, index, logits, routing }: {
      row: StepRow;
      /** The row's place in the step. */
      index: number;
      logits: Float32Array | null;
      routing: StepRouting | null;
    },
  ): void {
    if (row.position < live.rowsTaken) return;
    live.rowsTaken++;
    if (routing !== null && wantsRouting(live.request, row.position)) {
      this.#takeRouting(live, { row, index, routing });
    }
    const { tokens, topLogprobs: top = 0 } = live.request;
    const lastOfPrompt = tokens.length - 1;
    if (row.position < lastOfPrompt) {
      if (logits === null) return;
      const token = tokens[row.position + 1];
      live.promptLogprobs?.push(tokenLogprobs(logits, { token, top }));
      return;
    }
    if (row.position === lastOfPrompt) this.#endPrompt(live);
    if (logits === null) this.#finish(live, "length");
    else this.#chooseToken(live, logits);
  }

  #takeRouting(
    live: LiveRequest,
    { row, index, routing }: { row: StepRow; index: number; routing: StepRouting },
  ): void {
    if (row.position < live.request.tokens.length) {
      live.promptRouting?.push(routing, index);
      return;
    }
    const one = new RoutingRows(this.info.routedLayers, 1);
    one.push(routing, index);
    live.sink.push({ type: "routing", routing: one.take() });
  }

  #endPrompt(live: LiveRequest): void {
    live.promptAt = performance.now();
    this.#promptTokens += live.request.tokens.length;
    const { promptLogprobs, promptRouting } = live;
    live.sink.push({
      type: "prompt",
      ...(promptLogprobs !== null && { promptLogprobs }),
      ...(promptRouting !== null && { routing: promptRouting.take() }),
    });
  }

  #chooseToken(live: LiveRequest, logits: Float32Array): void {
    const { topLogprobs } = live.request;
    // The sampler overwrites what it is given; log-probabilities are those of the raw logits.
    const token = live.sampler.sample(topLogprobs === undefined ? logits : logits.slice());
    if (live.stopTokens.has(token)) {
      this.#finish(live, "stop", token);
      return;
    }
    live.generated++;
    this.#completionTokens++;
    if (topLogprobs === undefined) {
      live.sink.push({ type: "token", token });
    } else {
      const { chosen, top } = tokenLogprobs(logits, { token, top: topLogprobs });
      live.sink.push({ type: "token", token, logprob: chosen.logprob, top });
    }
    if (live.generated === live.maxTokens) this.#finish(live, "length");
    else this.#scheduler.append(live.id, token);
  }

  #finish(live: LiveRequest, reason: FinishReason, stopToken?: number): void {
    this.#drop(live.id);
    live.sink.push({
      type: "done",
      reason,
      ...(stopToken === undefined ? {} : { stopToken }),
      promptTokens: live.request.tokens.length,
      completionTokens: live.generated,
      timings: timingsOf(live),
    });
  }

  #fail(id: number, error: unknown): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    this.#drop(id);
    live.sink.fail(error);
  }

  /** Forgets a request and frees what it holds. */
  #drop(id: number): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    live.release();
    this.#live.delete(id);
    this.#scheduler.remove(id);
    if (this.#live.size === 0) this.#onIdle?.();
  }

  async #shutDown(graceMs: number): Promise<void> {
    if (this.#live.size > 0) {
      const timer = setTimeout(() => {
        for (const live of [...this.#live.values()]) this.#finish(live, "abort");
      }, graceMs);
      await new Promise<void>((resolve) => this.#onIdle = resolve);
      clearTimeout(timer);
    }
    this.#stopped = true;
    this.#onWork?.();
    await this.#loop;
    this.#turn.close();
    this.#options.runner.close();
  }
}

/** Whether the request asked for the routing of the token at this position. */
function wantsRouting({ routedExperts, tokens }: GenerateRequest, position: number): boolean {
  return routedExperts === "all" ||
    (routedExperts === "completion" && position >= tokens.length);
}

function timingsOf({ submittedAt, startedAt, promptAt }: LiveRequest): Timings {
  const now = performance.now();
  const started = startedAt ?? now;
  const evaluated = promptAt ?? now;
  return {
    queueMs: started - submittedAt,
    prefillMs: evaluated - started,
    decodeMs: now - evaluated,
  };
}
