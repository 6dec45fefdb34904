/**
 * The requests of an engine that have not ended: what each brings with it (a place among the waiting, a
 * root for its pages, a deadline, a listener on its signal), and how it ends.
 */

import { CapacityError, DeadlineError } from "../errors.ts";
import { Candidates } from "../sampling/candidates.ts";
import type { EventSink } from "./event_stream.ts";
import { DEFAULT_MAX_WAITING } from "./limits.ts";
import { LiveRequest, scoresPrompt } from "./live_request.ts";
import { checkRequest } from "./request.ts";
import type { Roots } from "./roots.ts";
import type { FilledUnit } from "./schedule.ts";
import type { Scheduler } from "./scheduler.ts";
import type { EngineInfo, FinishReason, GenerateRequest } from "./types.ts";

export interface LiveRequestsOptions {
  readonly info: EngineInfo;
  readonly scheduler: Scheduler;
  readonly roots: Roots;
  /** Pages of the KV cache. */
  readonly pages: number;
  /** Requests that may wait for a slot; DEFAULT_MAX_WAITING where nothing is said. */
  readonly maxWaiting?: number;
  readonly speculates: boolean;
  /** There is something to ask for what the pages in memory lack. */
  readonly restores: boolean;
  /** A request is no longer there; `tail` is what its end leaves to be kept. */
  readonly onGone: (id: number, tail: FilledUnit | null) => void;
}

export interface Submission {
  readonly request: GenerateRequest;
  readonly sink: EventSink;
  readonly signal?: AbortSignal;
}

export class LiveRequests {
  readonly #options: LiveRequestsOptions;
  readonly #candidates: Candidates;
  readonly #live = new Map<number, LiveRequest>();

  constructor(options: LiveRequestsOptions) {
    this.#options = options;
    this.#candidates = new Candidates(options.info.vocabSize);
  }

  get size(): number {
    return this.#live.size;
  }

  get(id: number): LiveRequest | undefined {
    return this.#live.get(id);
  }

  values(): Iterable<LiveRequest> {
    return this.#live.values();
  }

  /** Takes a request in. Throws RequestError where it is wrong, CapacityError where too many wait. */
  add(id: number, { request, sink, signal }: Submission): void {
    const { info, scheduler, roots, pages, speculates, restores } = this.#options;
    const { contextLength, vocabSize, routedLayers } = info;
    const routes = routedLayers.length > 0;
    const plan = checkRequest(request, { contextLength, vocabSize, pages, routes });
    this.#checkRoom();
    const { deadlineMs } = request;
    const root = roots.of(request, id);
    const abort = () => this.abort(id);
    const late = deadlineMs === undefined ? undefined : setTimeout(
      () => this.fail(id, new DeadlineError(`cannot answer within ${deadlineMs} ms`)),
      deadlineMs,
    );
    const live = new LiveRequest({
      id,
      request,
      maxTokens: plan.maxTokens,
      sink,
      candidates: this.#candidates,
      info,
      speculates,
      release: () => {
        clearTimeout(late);
        root.release();
        signal?.removeEventListener("abort", abort);
      },
    });
    this.#live.set(id, live);
    if (signal?.aborted) {
      this.finish(live, "abort");
      return;
    }
    signal?.addEventListener("abort", abort);
    // Whoever wants to see every row of the prompt must have it computed.
    const reuse = !scoresPrompt(request) && request.routedExperts !== "all";
    scheduler.add({
      id,
      prompt: request.tokens,
      maxTokens: plan.totalTokens,
      answers: plan.maxTokens > 0,
      promptLogits: scoresPrompt(request),
      tokensOnly: request.topLogprobs === undefined && request.routedExperts === undefined,
      root: root.key,
      lasting: root.lasting,
      reuse,
      restorable: root.lasting && restores,
      client: request.client ?? "",
      priority: request.priority ?? 0,
    });
  }

  /** Ends a request, waiting or running, with the reason "abort"; does nothing once it has ended. */
  abort(id: number): void {
    const live = this.#live.get(id);
    if (live !== undefined) this.finish(live, "abort");
  }

  finish(live: LiveRequest, reason: FinishReason, stopToken?: number): void {
    this.drop(live.id);
    live.finish(reason, stopToken);
  }

  /** Ends a request with an error; does nothing once it has ended. */
  fail(id: number, error: unknown): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    this.drop(id);
    live.fail(error);
  }

  /** Forgets a request without a word to it, and frees what it holds. */
  drop(id: number): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    live.release();
    this.#live.delete(id);
    this.#options.onGone(id, this.#options.scheduler.remove(id));
  }

  abortAll(): void {
    for (const live of [...this.#live.values()]) this.finish(live, "abort");
  }

  failAll(error: unknown): void {
    for (const id of [...this.#live.keys()]) this.fail(id, error);
  }

  /** A request that finds a free slot does not wait, so it counts only where none is free. */
  #checkRoom(): void {
    const { info, scheduler, maxWaiting = DEFAULT_MAX_WAITING } = this.#options;
    const { running, waiting } = scheduler;
    if (running + waiting < info.slots + maxWaiting) return;
    throw new CapacityError(
      `cannot queue a request: ${waiting} requests are waiting, must be fewer than ${maxWaiting}`,
    );
  }
}
