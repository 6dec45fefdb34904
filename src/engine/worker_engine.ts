/**
 * An engine in a worker, so that the thread that serves HTTP never computes. Requests and events cross
 * as messages. A worker that crashes ends the requests that it has begun to answer with an error; the
 * others go to the next worker, once.
 */

import { CapacityError } from "../errors.ts";
import { addCounts, NO_STATS } from "./engine_stats.ts";
import { EventStream } from "./event_stream.ts";
import { DEFAULT_GRACE_MS } from "./limits.ts";
import type {
  CloseOptions,
  Engine,
  EngineEvent,
  EngineInfo,
  EngineStats,
  GenerateRequest,
  RoutingStats,
} from "./types.ts";
import { decodeError, type Report } from "./wire.ts";
import { WorkerLink, type WorkerLinkOptions } from "./worker_link.ts";

/** How long a worker may take to close beyond the grace of its requests, in milliseconds. */
const CLOSE_MARGIN_MS = 2000;

/** A process that ends while a worker still lets go of its GPU crashes at times (Deno 2.9.6). */
const GPU_REST_MS = 200;

/** Backends that compute on a GPU. */
const GPU_BACKENDS: readonly string[] = ["webgpu", "hybrid"];

/** What becomes of an engine that has lost its GPU. */
const FALLBACK = "; the next requests are computed by the WASM kernels";

/** A request that has not ended. */
interface OpenRequest {
  readonly request: GenerateRequest;
  readonly stream: EventStream;
  readonly submittedAt: number;
  /** The worker knows of it. */
  sent: boolean;
  /** What the worker has said of it: that it has begun, and more than that. */
  begun: boolean;
  answered: boolean;
  /** A worker has crashed while it knew of it. */
  survivor: boolean;
  /** Takes the listener off the caller's signal. */
  readonly release: () => void;
}

/** Runs requests in a worker. */
export class WorkerEngine implements Engine {
  #info: EngineInfo;
  #options: WorkerLinkOptions;
  readonly #requests = new Map<number, OpenRequest>();
  /** Null from a crash until the next worker is ready. */
  #worker: WorkerLink | null = null;
  /** The present worker has answered a request to its end. */
  #proven = false;
  #restarting = false;
  #nextId = 1;
  /** What the present worker said last. */
  #stats: EngineStats = NO_STATS;
  /** Counts of workers that crashed. */
  #lost: EngineStats = NO_STATS;
  /** Who waits for the worker's routing statistics. */
  readonly #statsAsked = new Map<number, PromiseWithResolvers<RoutingStats>>();
  #onClosed: (() => void) | null = null;
  #closing: Promise<void> | null = null;

  /** Starts a worker and opens the model in it; rejects with the error that opening met. */
  static async open(options: WorkerLinkOptions): Promise<WorkerEngine> {
    return new WorkerEngine(options, await WorkerLink.open(options));
  }

  private constructor(options: WorkerLinkOptions, worker: WorkerLink) {
    this.#options = options;
    this.#info = worker.info;
    this.#adopt(worker);
  }

  /** Of the present worker's engine, or of the last one's. */
  get info(): EngineInfo {
    return this.#info;
  }

  generate(
    request: GenerateRequest,
    options: { signal?: AbortSignal } = {},
  ): AsyncIterable<EngineEvent> {
    return { [Symbol.asyncIterator]: () => this.#submit(request, options.signal) };
  }

  stats(): EngineStats {
    const running = Math.min(this.#stats.running, this.#requests.size);
    return {
      ...addCounts(this.#lost, this.#stats),
      running,
      waiting: this.#requests.size - running,
    };
  }

  /** Counts start anew with a new worker. Rejects with CapacityError while there is none. */
  async routingStats(): Promise<RoutingStats> {
    if (this.#worker === null) {
      throw new CapacityError(
        "cannot read the routing: the engine's worker is gone, must be running",
      );
    }
    const id = this.#nextId++;
    const asked = Promise.withResolvers<RoutingStats>();
    this.#statsAsked.set(id, asked);
    this.#worker.send({ type: "routingStats", id });
    return await asked.promise;
  }

  /** Refuses new requests, lets the others finish within the grace, ends the worker. */
  close(options: CloseOptions = {}): Promise<void> {
    this.#closing ??= this.#shutDown(options.graceMs ?? DEFAULT_GRACE_MS);
    return this.#closing;
  }

  #submit(request: GenerateRequest, signal?: AbortSignal): EventStream {
    const id = this.#nextId++;
    const stream = new EventStream(() => this.#leave(id));
    if (this.#closing !== null) {
      stream.fail(new CapacityError("cannot generate: the engine is closing, must be open"));
      return stream;
    }
    const abort = () => this.#abort(id);
    const release = () => signal?.removeEventListener("abort", abort);
    const submittedAt = performance.now();
    const untold = { sent: false, begun: false, answered: false, survivor: false };
    this.#requests.set(id, { request, stream, submittedAt, ...untold, release });
    if (signal?.aborted) {
      this.#abort(id);
      return stream;
    }
    signal?.addEventListener("abort", abort);
    if (this.#worker !== null) this.#send(id);
    else if (!this.#restarting) void this.#restart();
    return stream;
  }

  #send(id: number): void {
    const open = this.#requests.get(id);
    if (open === undefined || this.#worker === null) return;
    try {
      // A copy of the fields: whatever else the caller's object holds need not survive cloning.
      const { tokens, sampling, maxTokens, stopTokens } = open.request;
      const { topLogprobs, promptLogprobs, routedExperts } = open.request;
      const { client, priority, tenant } = open.request;
      const request: GenerateRequest = {
        tokens,
        sampling,
        maxTokens,
        stopTokens,
        topLogprobs,
        promptLogprobs,
        routedExperts,
        client,
        priority,
        deadlineMs: timeLeft(open),
        tenant,
      };
      this.#worker.send({ type: "generate", id, request });
      open.sent = true;
    } catch (error) {
      this.#forget(id)?.stream.fail(error);
    }
  }

  /** Ends a request with the event "abort", which the worker makes if it knows of the request. */
  #abort(id: number): void {
    const open = this.#requests.get(id);
    if (open === undefined) return;
    if (open.sent) {
      this.#worker?.send({ type: "abort", id });
      return;
    }
    this.#forget(id);
    open.stream.push({
      type: "done",
      reason: "abort",
      promptTokens: open.request.tokens.length,
      completionTokens: 0,
      cached: { memory: 0, store: 0 },
      speculation: { drafted: 0, accepted: 0 },
      timings: { queueMs: 0, restoreMs: 0, prefillMs: 0, decodeMs: 0 },
    });
  }

  /** The reader is gone: nobody wants the events of an abort. */
  #leave(id: number): void {
    const open = this.#forget(id);
    if (open?.sent) this.#worker?.send({ type: "abort", id });
  }

  #forget(id: number): OpenRequest | undefined {
    const open = this.#requests.get(id);
    this.#requests.delete(id);
    open?.release();
    return open;
  }

  #adopt(worker: WorkerLink): void {
    this.#worker = worker;
    this.#info = worker.info;
    this.#proven = false;
    worker.listen({
      onReport: (report) => {
        if (this.#worker === worker) this.#take(report);
      },
      onEnd: (reason) => this.#crash(worker, reason),
    });
  }

  #take(report: Report): void {
    if (report.type === "closed") this.#onClosed?.();
    if (report.type === "routingStats") {
      this.#statsAsked.get(report.id)?.resolve(report.stats);
      this.#statsAsked.delete(report.id);
    }
    if (report.type !== "news") return;
    this.#stats = report.stats;
    for (const item of report.items) {
      if ("error" in item) this.#forget(item.id)?.stream.fail(decodeError(item.error));
      else this.#pass(item.id, item.event);
    }
  }

  #pass(id: number, event: EngineEvent): void {
    const open = event.type === "done" ? this.#forget(id) : this.#requests.get(id);
    if (event.type === "done") this.#proven = true;
    if (open === undefined) return;
    if (event.type !== "started") open.answered = true;
    else if (open.begun) return;
    open.begun = true;
    open.stream.push(event);
  }

  #crash(worker: WorkerLink, reason: string): void {
    if (this.#worker !== worker) return;
    worker.terminate();
    this.#worker = null;
    this.#lost = addCounts(this.#lost, this.#stats);
    this.#stats = NO_STATS;
    const error = new Error(
      `cannot go on: the engine's worker ended: ${reason}${this.#leaveGpu() ? FALLBACK : ""}`,
    );
    this.#failAll(error, (open) => open.answered || open.survivor || this.#closing !== null);
    for (const open of this.#requests.values()) {
      open.sent = false;
      open.survivor = true;
    }
    this.#onClosed?.();
    // One that ends before it has answered anything would end again and again.
    const wanted = this.#proven || this.#requests.size > 0;
    if (wanted && this.#closing === null) void this.#restart();
  }

  /** A GPU that was lost may be lost again: the next worker uses the WASM kernels. */
  #leaveGpu(): boolean {
    if (!GPU_BACKENDS.includes(this.#info.backend)) return false;
    const engine = { ...this.#options.engine, backend: "wasm", backendChosen: true } as const;
    this.#options = { ...this.#options, engine };
    return true;
  }

  #failAll(error: unknown, isConcerned: (open: OpenRequest) => boolean = () => true): void {
    for (const asked of this.#statsAsked.values()) asked.reject(error);
    this.#statsAsked.clear();
    for (const [id, open] of [...this.#requests]) {
      if (isConcerned(open)) this.#forget(id)?.stream.fail(error);
    }
  }

  /** Opens the model in a new worker, and sends it the requests that no worker knows of. */
  async #restart(): Promise<void> {
    this.#restarting = true;
    try {
      const worker = await WorkerLink.open({ ...this.#options, onProgress: undefined });
      if (this.#closing !== null) {
        worker.terminate();
        return;
      }
      this.#adopt(worker);
      for (const id of this.#requests.keys()) this.#send(id);
    } catch (error) {
      this.#failAll(error);
    } finally {
      this.#restarting = false;
    }
  }

  async #shutDown(graceMs: number): Promise<void> {
    const worker = this.#worker;
    if (worker !== null) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, graceMs + CLOSE_MARGIN_MS);
        this.#onClosed = () => {
          clearTimeout(timer);
          resolve();
        };
        worker.send({ type: "close", graceMs });
      });
      this.#worker = null;
      worker.terminate();
      if (GPU_BACKENDS.includes(this.#info.backend)) await delay(GPU_REST_MS);
    }
    await this.#options.store?.close();
    this.#failAll(new CapacityError("cannot go on: the engine has closed, must be open"));
  }
}

function delay(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Milliseconds that a request has for its answer, less those that a worker that crashed has had. */
function timeLeft({ request, submittedAt, survivor }: OpenRequest): number | undefined {
  const { deadlineMs } = request;
  if (deadlineMs === undefined || !survivor) return deadlineMs;
  return Math.max(1, Math.round(deadlineMs - (performance.now() - submittedAt)));
}
