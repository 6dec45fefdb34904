/**
 * The engine in the present thread: one loop that asks the scheduler for a step, runs it, chooses
 * tokens and hands them out, with a turn of the event loop between steps so that new requests and
 * aborts come in. A worker runs it in a server; programs without workers use it directly.
 */

import type { UnitStore } from "../cache/store.ts";
import { BackendLostError, CapacityError, DeadlineError } from "../errors.ts";
import { Candidates } from "../sampling/candidates.ts";
import { isBurst, planBurst } from "./burst.ts";
import { EventLoopTurn } from "./event_loop.ts";
import { type EventSink, EventStream } from "./event_stream.ts";
import { Guesser } from "./guesser.ts";
import { KeptPages, type Restored } from "./kept_pages.ts";
import { DEFAULT_GRACE_MS, DEFAULT_MAX_WAITING } from "./limits.ts";
import { LiveRequest, scoresPrompt, wantsRouting } from "./live_request.ts";
import { checkRequest } from "./request.ts";
import { Roots } from "./roots.ts";
import { RoutingCounter, type StepRouting } from "./routing.ts";
import type { Started, Step } from "./schedule.ts";
import { Scheduler } from "./scheduler.ts";
import type { StepCosts } from "./speculation.ts";
import type { StepRunner } from "./step_runner.ts";
import { countStep, NO_STEPS } from "./step_sizes.ts";
import type {
  CachedTokens,
  CloseOptions,
  Engine,
  EngineEvent,
  EngineInfo,
  EngineStats,
  FinishReason,
  GenerateRequest,
  RoutingStats,
} from "./types.ts";

export interface LocalEngineOptions {
  readonly info: EngineInfo;
  readonly runner: Pick<
    StepRunner,
    | "run"
    | "chooses"
    | "choose"
    | "readRouting"
    | "expertTraffic"
    | "readPage"
    | "writePage"
    | "unitBytes"
    | "close"
  >;
  /** Prompt tokens per step where nobody is being answered. */
  readonly chunkTokens: number;
  /** Prompt tokens per step beside answers. */
  readonly mixedTokens: number;
  /** Rows of a step at most. */
  readonly maxRows: number;
  /** Rows of a step that may want logits; at least the slots. */
  readonly logitRows: number;
  /** Pages of the runner's KV cache. */
  readonly pages: number;
  /** Where the chain of a tenant's pages begins (`rootKey`). */
  readonly rootOf: (tenant: string) => string;
  /** Use what earlier requests computed; true where nothing is said. */
  readonly reusePrefixes?: boolean;
  /** What pages in memory are read from and written to; nothing where absent. */
  readonly store?: UnitStore;
  /** Guess tokens where that pays; false where nothing is said. */
  readonly speculates?: boolean;
  /** How many tokens to guess; `StepCosts.bestDraft` where absent. */
  readonly draftLength?: StepCosts["bestDraft"];
  /** Requests that may wait for a slot; DEFAULT_MAX_WAITING where nothing is said. */
  readonly maxWaiting?: number;
  /** Count what the gates choose; true where nothing is said. */
  readonly countRouting?: boolean;
  /** Called when the backend is lost: every later step fails, so open the model anew. */
  readonly onLost?: (error: Error) => void;
  /** Called when the events of a step have been handed out. */
  readonly onStepEnd?: () => void;
}

/** Runs requests on a model in this thread. */
/** What a step brought: logits of the rows that wanted them, or, of a burst, the chosen tokens. */
interface StepResults {
  readonly logits: Float32Array;
  readonly chosen: Int32Array | null;
  readonly routing: StepRouting | null;
}

const NO_RESULTS: StepResults = { logits: new Float32Array(0), chosen: null, routing: null };

export class LocalEngine implements Engine {
  readonly info: EngineInfo;
  readonly #options: LocalEngineOptions;
  readonly #scheduler: Scheduler;
  readonly #candidates: Candidates;
  readonly #counter: RoutingCounter;
  readonly #counting: boolean;
  readonly #turn = new EventLoopTurn();
  readonly #live = new Map<number, LiveRequest>();
  /** Null where nothing is guessed. */
  readonly #guesser: Guesser | null;
  readonly #roots: Roots;
  /** Null where there is no store. */
  readonly #kept: KeptPages | null;
  readonly #loop: Promise<void>;
  #nextId = 1;
  #promptTokens = 0;
  #completionTokens = 0;
  #prefixCache: CachedTokens & { queried: number } = { queried: 0, memory: 0, store: 0 };
  #steps = NO_STEPS;
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
      stepTokens: options.chunkTokens,
      mixedTokens: options.mixedTokens,
      maxRows: options.maxRows,
      logitRows: options.logitRows,
      pages: options.pages,
    });
    const { rootOf, reusePrefixes = true, store, runner } = options;
    const draft = (id: number, tokens: readonly number[]) => this.#scheduler.draft(id, tokens);
    const { draftLength } = options;
    this.#guesser = options.speculates === true ? new Guesser({ draft, draftLength }) : null;
    const onRestored = (result: Restored) => this.#endRestore(result);
    this.#kept = store === undefined ? null : new KeptPages({ store, runner, onRestored });
    this.#roots = new Roots({ rootOf, reusePrefixes });
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
    const { running, waiting, preemptions } = this.#scheduler;
    return {
      running,
      waiting,
      promptTokens: this.#promptTokens,
      completionTokens: this.#completionTokens,
      pages: this.#scheduler.pageCounts(),
      preemptions,
      prefixCache: this.#prefixCache,
      store: this.#kept?.state(),
      speculation: this.#guesser?.counts ?? { drafted: 0, accepted: 0 },
      steps: this.#steps,
    };
  }

  routingStats(): Promise<RoutingStats> {
    const traffic = this.#options.runner.expertTraffic();
    return Promise.resolve(this.#counter.stats({ counting: this.#counting, traffic }));
  }

  /** Ends the compute threads at once, for a thread that is about to die: nothing goes on. */
  abandon(): void {
    this.#options.runner.close();
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
    const { deadlineMs } = request;
    const root = this.#roots.of(request, id);
    const abort = () => this.abort(id);
    const late = deadlineMs === undefined ? undefined : setTimeout(
      () => this.#fail(id, new DeadlineError(`cannot answer within ${deadlineMs} ms`)),
      deadlineMs,
    );
    const live = new LiveRequest({
      id,
      request,
      maxTokens: plan.maxTokens,
      sink,
      candidates: this.#candidates,
      info: this.info,
      speculates: this.#options.speculates === true,
      release: () => {
        clearTimeout(late);
        root.release();
        signal?.removeEventListener("abort", abort);
      },
    });
    this.#live.set(id, live);
    if (signal?.aborted) {
      this.#finish(live, "abort");
      return;
    }
    signal?.addEventListener("abort", abort);
    // Whoever wants to see every row of the prompt must have it computed.
    const reuse = !scoresPrompt(request) && request.routedExperts !== "all";
    this.#scheduler.add({
      id,
      prompt: request.tokens,
      maxTokens: plan.totalTokens,
      answers: plan.maxTokens > 0,
      promptLogits: scoresPrompt(request),
      root: root.key,
      lasting: root.lasting,
      reuse,
      restorable: root.lasting && this.#kept !== null,
      client: request.client ?? "",
      priority: request.priority ?? 0,
    });
    this.#onWork?.();
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      await this.#kept?.keep();
      // It may have been told to stop meanwhile, and nobody would tell it again.
      if (this.#stopped) break;
      if (this.#scheduler.waiting === 0) this.#draft();
      const step = this.#scheduler.next();
      if (step === null) {
        await new Promise<void>((resolve) => this.#onWork = resolve);
        this.#onWork = null;
        continue;
      }
      for (const restore of step.restores) this.#kept?.restore(restore);
      await this.#runStep(step);
      this.#options.onStepEnd?.();
      await this.#turn.wait();
    }
  }

  /** Lets the next step compute several tokens of each answer, where they can be guessed or chosen there. */
  #draft(): void {
    if (this.#options.runner.chooses) {
      planBurst(this.#live.values(), (id, tokens) => this.#scheduler.draft(id, tokens));
    } else {
      this.#guesser?.guess(this.#live.values());
    }
  }

  #endRestore({ sequence, tokens, milliseconds, error }: Restored): void {
    const live = this.#live.get(sequence);
    if (live !== undefined) live.restoreMs = milliseconds;
    if (error !== undefined) this.#fail(sequence, error);
    this.#scheduler.restored(sequence, tokens);
    this.#onWork?.();
  }

  async #runStep(step: Step): Promise<void> {
    const begin = performance.now();
    for (const started of step.started) this.#start(started);
    let results: StepResults;
    try {
      results = isBurst(step.rows)
        ? { ...NO_RESULTS, chosen: await this.#options.runner.choose(step) }
        : {
          ...NO_RESULTS,
          logits: await this.#options.runner.run(step),
          routing: await this.#readRouting(step),
        };
    } catch (error) {
      // What a lost backend held of the other sequences is gone too.
      const lost = error instanceof BackendLostError;
      if (lost) this.#options.onLost?.(error);
      const ended = lost ? [...this.#live.keys()] : step.rows.map((row) => row.sequence);
      for (const sequence of ended) this.#fail(sequence, error);
      return;
    }
    if (step.rows.length > 0) this.#steps = countStep(this.#steps, step.rows.length);
    const filled = this.#scheduler.settle();
    this.#kept?.add(filled);
    const milliseconds = performance.now() - begin;
    if (this.#takeRows(step, results)) {
      this.#guesser?.measured({ rows: step.rows.length, milliseconds });
    }
  }

  #start({ sequence, memory, store }: Started): void {
    const live = this.#live.get(sequence);
    if (live === undefined) return;
    live.start({ memory, store });
    this.#prefixCache = {
      queried: this.#prefixCache.queried + live.request.tokens.length,
      memory: this.#prefixCache.memory + memory,
      store: this.#prefixCache.store + store,
    };
  }

  /** Hands out what a step brought; returns whether all of its rows were answers'. */
  #takeRows(
    { rows }: Step,
    { logits, chosen, routing }: StepResults,
  ): boolean {
    const { vocabSize } = this.info;
    let onlyAnswers = rows.length > 0;
    let start = 0;
    let index = 0;
    while (index < rows.length) {
      const { sequence } = rows[index];
      const live = this.#live.get(sequence);
      const answering = live !== undefined && live.generated > 0;
      if (!answering) onlyAnswers = false;
      // Rows behind a guess that was wrong, or of a request that was aborted, count for nothing.
      let certain = live !== undefined;
      let logitRows = 0;
      let accepted = 0;
      for (; rows[index]?.sequence === sequence; index++) {
        const row = rows[index];
        const rowLogits = row.wantsLogits ? logits.subarray(start, start + vocabSize) : null;
        if (row.wantsLogits) {
          start += vocabSize;
          logitRows++;
        } else onlyAnswers = false;
        if (!certain) continue;
        certain = this.#takeRow(live!, {
          row,
          index,
          logits: rowLogits,
          chosen: chosen?.[index],
          routing,
        });
        if (certain && answering) accepted++;
      }
      if (answering && chosen === null && logitRows > 1) {
        this.#guesser?.count(live!, { drafted: logitRows - 1, accepted });
      }
    }
    return onlyAnswers;
  }

  /** Takes one row; returns whether the sequence's next row in the step counts too. */
  #takeRow(live: LiveRequest, result: Parameters<LiveRequest["takeRow"]>[0]): boolean {
    try {
      const { row } = result;
      const outcome = live.takeRow(result);
      if (row.position === live.request.tokens.length - 1 && outcome !== null) {
        this.#promptTokens += live.request.tokens.length;
      }
      if (outcome === null) return true;
      const { token, ends, stopToken } = outcome;
      if (token !== undefined) this.#completionTokens++;
      if (ends !== undefined) {
        this.#finish(live, ends, stopToken);
        return false;
      }
      return this.#scheduler.append(live.id, token!);
    } catch (error) {
      this.#fail(live.id, error);
      return false;
    }
  }

  /** What the gates chose in the step; null where nobody wants to know. */
  async #readRouting({ rows }: Step): Promise<StepRouting | null> {
    if (rows.length === 0) return null;
    const weights = rows.some((row) => {
      const live = this.#live.get(row.sequence);
      return live !== undefined && wantsRouting(live.request, row.position);
    });
    if (!weights && !this.#counting) return null;
    const routing = await this.#options.runner.readRouting(rows.length, { weights });
    if (this.#counting) this.#counter.add(routing, rows.length);
    return routing;
  }

  #finish(live: LiveRequest, reason: FinishReason, stopToken?: number): void {
    this.#drop(live.id);
    live.finish(reason, stopToken);
  }

  #fail(id: number, error: unknown): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    this.#drop(id);
    live.fail(error);
  }

  /** Forgets a request and frees what it holds. */
  #drop(id: number): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    live.release();
    this.#live.delete(id);
    const tail = this.#scheduler.remove(id);
    this.#kept?.leave(id);
    if (tail !== null) this.#kept?.add([tail]);
    if (this.#live.size === 0) this.#onIdle?.();
    this.#onWork?.();
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
    await this.#kept?.close();
    this.#turn.close();
    this.#options.runner.close();
  }
}
