/**
 * The engine in the present thread: one loop that asks the scheduler for a step, runs it, chooses
 * tokens and hands them out, with a turn of the event loop between steps so that new requests and
 * aborts come in. A worker runs it in a server; programs without workers use it directly.
 */

import type { UnitStore } from "../cache/store.ts";
import { BackendLostError, CapacityError } from "../errors.ts";
import { Bursts, type Flight } from "./burst.ts";
import { EventLoopTurn } from "./event_loop.ts";
import { type EventSink, EventStream } from "./event_stream.ts";
import { Guesser } from "./guesser.ts";
import { KeptPages, type Restored } from "./kept_pages.ts";
import { DEFAULT_GRACE_MS } from "./limits.ts";
import { wantsRouting } from "./live_request.ts";
import { LiveRequests } from "./live_requests.ts";
import { Roots } from "./roots.ts";
import { RoutingCounter, type StepRouting } from "./routing.ts";
import type { FilledUnit, Started, Step } from "./schedule.ts";
import { Scheduler } from "./scheduler.ts";
import type { StepCosts } from "./speculation.ts";
import { NO_RESULT, type StepResult, StepResults } from "./step_results.ts";
import type { StepRunner } from "./step_runner.ts";
import { countStep, NO_STEPS } from "./step_sizes.ts";
import type {
  CachedTokens,
  CloseOptions,
  Engine,
  EngineEvent,
  EngineInfo,
  EngineStats,
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
  /** Another number whenever `rootOf` gives other keys. */
  readonly rootVersion?: () => number;
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
  /** Hears what the gates choose, step by step; nobody where absent. */
  readonly onRouting?: (routing: StepRouting, rows: number) => void;
  /** Called when the backend is lost: every later step fails, so open the model anew. */
  readonly onLost?: (error: Error) => void;
  /** Called when the engine has closed, its backend too. */
  readonly onClosed?: () => void;
  /** Called when the events of a step have been handed out. */
  readonly onStepEnd?: () => void;
}

/** Runs requests on a model in this thread. */
export class LocalEngine implements Engine {
  readonly info: EngineInfo;
  readonly #options: LocalEngineOptions;
  readonly #scheduler: Scheduler;
  readonly #counter: RoutingCounter;
  readonly #counting: boolean;
  readonly #turn = new EventLoopTurn();
  readonly #live: LiveRequests;
  readonly #results: StepResults;
  /** Null where nothing is guessed. */
  readonly #guesser: Guesser | null;
  /** Null where the backend leaves choosing tokens to the host. */
  readonly #bursts: Bursts | null;
  /** Null where there is no store. */
  readonly #kept: KeptPages | null;
  readonly #loop: Promise<void>;
  #nextId = 1;
  #prefixCache: CachedTokens & { queried: number } = { queried: 0, memory: 0, store: 0 };
  #steps = NO_STEPS;
  /** Resolves what the loop, or `close`, waits for. */
  #onWork: (() => void) | null = null;
  #onIdle: (() => void) | null = null;
  #closing: Promise<void> | null = null;
  #stopped = false;

  constructor(options: LocalEngineOptions) {
    const { info, reusePrefixes = true, store, runner, pages, maxWaiting } = options;
    const { speculates = false, draftLength } = options;
    const { slots, vocabSize, routedLayers } = info;
    const { chunkTokens: stepTokens, mixedTokens, maxRows, logitRows } = options;
    const scheduler = new Scheduler({ slots, stepTokens, mixedTokens, maxRows, logitRows, pages });
    const draft = (id: number, tokens: readonly number[]) => scheduler.draft(id, tokens);
    const guesser = speculates ? new Guesser({ draft, draftLength }) : null;
    const onRestored = (result: Restored) => this.#endRestore(result);
    this.#kept = store === undefined ? null : new KeptPages({ store, runner, onRestored });
    const { rootOf, rootVersion } = options;
    const roots = new Roots({ rootOf, rootVersion, reusePrefixes });
    const restores = this.#kept !== null;
    const onGone = (id: number, tail: FilledUnit | null) => this.#leave(id, tail);
    const live = new LiveRequests({
      ...{ info, scheduler, roots, pages, maxWaiting, speculates, restores, onGone },
    });
    this.#options = options;
    this.info = info;
    this.#scheduler = scheduler;
    this.#guesser = guesser;
    this.#live = live;
    this.#results = new StepResults({ vocabSize, live, scheduler, guesser });
    this.#counter = new RoutingCounter(routedLayers);
    this.#counting = (options.countRouting ?? true) && routedLayers.length > 0;
    // Choices of experts are read step by step.
    const mayBurst = runner.chooses && !this.#counting && options.onRouting === undefined;
    this.#bursts = mayBurst ? new Bursts({ runner, scheduler, live }) : null;
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
      if (this.#closing !== null) {
        throw new CapacityError("cannot generate: the engine is closing, must be open");
      }
      this.#live.add(id, { request, sink, signal });
      this.#onWork?.();
    } catch (error) {
      sink.fail(error);
    }
    return id;
  }

  /** Ends a request, waiting or running, with the reason "abort"; does nothing once it has ended. */
  abort(id: number): void {
    this.#live.abort(id);
  }

  stats(): EngineStats {
    const { running, waiting, preemptions } = this.#scheduler;
    return {
      running,
      waiting,
      promptTokens: this.#results.promptTokens,
      completionTokens: this.#results.completionTokens,
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
    const stream = new EventStream(() => this.#live.drop(id));
    id = this.submit(request, stream, signal);
    return stream;
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      await this.#kept?.keep();
      // It may have been told to stop meanwhile, and nobody would tell it again.
      if (this.#stopped) break;
      if (this.#scheduler.waiting === 0) this.#guesser?.guess(this.#live.values());
      const step = this.#scheduler.next({ burstRows: this.#bursts?.rows });
      if (step === null) {
        await new Promise<void>((resolve) => this.#onWork = resolve);
        this.#onWork = null;
        continue;
      }
      for (const restore of step.restores) this.#kept?.restore(restore);
      for (const started of step.started) this.#start(started);
      if (step.burst) await this.#runBursts(this.#bursts!, step);
      else await this.#runStep(step);
      await this.#letOthers();
    }
  }

  /** Events are handed out, and whoever else wants something has a turn. */
  async #letOthers(): Promise<void> {
    this.#options.onStepEnd?.();
    await this.#turn.wait();
  }

  #endRestore({ sequence, tokens, milliseconds, error }: Restored): void {
    const live = this.#live.get(sequence);
    if (live !== undefined) live.restoreMs = milliseconds;
    if (error !== undefined) this.#live.fail(sequence, error);
    this.#scheduler.restored(sequence, tokens);
    this.#onWork?.();
  }

  async #runStep(step: Step): Promise<void> {
    const begin = performance.now();
    let result: StepResult;
    try {
      // Side by side: on a GPU each would be waited for.
      const [logits, routing] = await Promise.all([
        this.#options.runner.run(step),
        this.#readRouting(step),
      ]);
      result = { ...NO_RESULT, logits, routing };
    } catch (error) {
      this.#failStep(step, error);
      return;
    }
    const milliseconds = performance.now() - begin;
    const onlyAnswers = this.#takeStep(step, result);
    if (onlyAnswers) this.#guesser?.measured({ rows: step.rows.length, milliseconds });
  }

  /** Runs a burst, and those that can be submitted before the one before them has been read. */
  async #runBursts(bursts: Bursts, step: Step): Promise<void> {
    for (let flight: Flight | null = bursts.begin(step); flight !== null;) {
      // Pages are copied as they are now, before what follows uses some of them again.
      this.#kept?.keep();
      const next = bursts.follow();
      const outcome = await flight.outcome;
      if ("error" in outcome) {
        this.#failStep(flight.step, outcome.error);
        // It has no other sequences.
        await next?.outcome;
        return;
      }
      bursts.measured(flight.step);
      this.#takeStep(flight.step, { ...NO_RESULT, chosen: outcome.chosen });
      flight = next;
      if (next !== null) await this.#letOthers();
    }
  }

  /** Hands out what a step has brought; returns whether all of its rows were answers'. */
  #takeStep(step: Step, result: StepResult): boolean {
    if (step.rows.length > 0) this.#steps = countStep(this.#steps, step.rows.length);
    const filled = this.#scheduler.settle();
    this.#kept?.add(filled);
    return this.#results.take(step, result);
  }

  #failStep({ rows }: Step, error: unknown): void {
    if (!(error instanceof BackendLostError)) {
      for (const { sequence } of rows) this.#live.fail(sequence, error);
      return;
    }
    // What the backend held of the other sequences is gone too.
    this.#options.onLost?.(error);
    this.#live.failAll(error);
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

  /** What the gates chose in the step; null where nobody wants to know. */
  async #readRouting({ rows }: Step): Promise<StepRouting | null> {
    if (rows.length === 0) return null;
    const weights = rows.some((row) => {
      const live = this.#live.get(row.sequence);
      return live !== undefined && wantsRouting(live.request, row.position);
    });
    const { runner, onRouting } = this.#options;
    if (!weights && !this.#counting && onRouting === undefined) return null;
    const routing = await runner.readRouting(rows.length, { weights });
    if (this.#counting) this.#counter.add(routing, rows.length);
    onRouting?.(routing, rows.length);
    return routing;
  }

  /** A request has left; the page that it ended in is worth keeping where there is a tail. */
  #leave(id: number, tail: FilledUnit | null): void {
    this.#kept?.leave(id);
    if (tail !== null) this.#kept?.add([tail]);
    if (this.#live.size === 0) this.#onIdle?.();
    this.#onWork?.();
  }

  async #shutDown(graceMs: number): Promise<void> {
    if (this.#live.size > 0) {
      const timer = setTimeout(() => this.#live.abortAll(), graceMs);
      await new Promise<void>((resolve) => this.#onIdle = resolve);
      clearTimeout(timer);
    }
    this.#stopped = true;
    this.#onWork?.();
    await this.#loop;
    await this.#kept?.close();
    this.#turn.close();
    this.#options.runner.close();
    this.#options.onClosed?.();
  }
}
