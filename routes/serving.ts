/** What every generating route shares: the model's state, limits, waiting, cancellation. */

import type { Context } from "hono";
import { RequestError } from "../src/errors.ts";
import type { TextModel } from "../src/text/types.ts";
import { UnavailableError } from "./errors.ts";
import { recordOf } from "./record.ts";
import { EVENT_STREAM_HEADERS, eventStream } from "./sse.ts";
import { Turns } from "./turns.ts";
import { cacheHeader } from "./usage.ts";
import { type BodyListener, isLate, waitingBody, within } from "./waiting.ts";

/** Milliseconds within which a refusal still gets its own status instead of an error event. */
const STREAM_START_MS = 100;

export interface ServingOptions {
  readonly model: TextModel | Promise<TextModel>;
  readonly maxBodyBytes: number;
  /** Generating requests in progress at a time. */
  readonly maxRequests: number;
  /** Infinity: silence is kept. */
  readonly keepAliveMs: number;
  /** For requests that name none; undefined: they take what they take. */
  readonly deadlineMs?: number;
  readonly draining?: AbortSignal;
  readonly shutdown?: AbortSignal;
  readonly onError: (error: unknown) => void;
}

type Work<T> = (signal: AbortSignal) => T;

/** The served model, from the start of loading on. */
export class Serving {
  readonly maxBodyBytes: number;
  readonly deadlineMs: number | undefined;
  readonly turns = new Turns();
  readonly #options: ServingOptions;
  #requests = 0;
  #model: TextModel | undefined;
  #failed = false;

  constructor(options: ServingOptions) {
    this.#options = options;
    this.maxBodyBytes = options.maxBodyBytes;
    this.deadlineMs = options.deadlineMs;
    if (options.model instanceof Promise) {
      options.model.then((model) => this.#model = model, () => this.#failed = true);
    } else this.#model = options.model;
  }

  state(): "loading" | "ready" | "failed" | "draining" | "stopping" {
    if (this.#options.shutdown?.aborted) return "stopping";
    if (this.#options.draining?.aborted) return "draining";
    if (this.#failed) return "failed";
    return this.#model === undefined ? "loading" : "ready";
  }

  /** The loaded model, whether it still takes requests or not. */
  loaded(): TextModel | undefined {
    return this.#model;
  }

  /** The loaded model. Throws UnavailableError (503) while there is none, and while it drains. */
  model(): TextModel {
    const state = this.state();
    if (state === "loading") throw new UnavailableError("the model is loading", "model_loading");
    if (state === "failed") throw new UnavailableError("the model did not load", "model_failed");
    if (state !== "ready") throw stopping();
    return this.#model!;
  }

  /** Counts a generating request in. Throws UnavailableError where there are too many, reading nothing. */
  enter(context: Context): void {
    const { maxRequests } = this.#options;
    if (this.#requests >= maxRequests) {
      const message = `${maxRequests} requests are in progress, there must be fewer`;
      throw new UnavailableError(message, "overloaded");
    }
    this.#requests++;
    recordOf(context).onEnd(() => this.#requests--);
  }

  report(error: unknown): void {
    this.#options.onError(error);
  }

  /** Answers with the value that `work` gives, as JSON. Its signal says when that is not wanted any more. */
  async answer(context: Context, work: Work<Promise<unknown>>): Promise<Response> {
    const record = recordOf(context);
    const controller = new AbortController();
    const pending = work(this.#signal(context.req.raw, controller)).finally(() =>
      controller.abort(new Error("the request has been answered"))
    );
    const { keepAliveMs } = this.#options;
    let value: unknown;
    try {
      value = await within(pending, keepAliveMs);
    } catch (error) {
      throw unlessLeft(context, error);
    }
    this.#tellCache(context);
    if (!isLate(value)) return context.json(value);
    record.hold();
    const body = waitingBody(pending, { ...this.#listener(context, controller), keepAliveMs });
    return context.body(body, 200, { "content-type": "application/json" });
  }

  /** Answers with the chunks as server-sent events. */
  async stream(context: Context, chunks: Work<AsyncIterable<unknown>>): Promise<Response> {
    const controller = new AbortController();
    const signal = this.#signal(context.req.raw, controller);
    async function* untilDone() {
      try {
        yield* chunks(signal);
      } finally {
        controller.abort(new Error("the stream has ended"));
      }
    }
    const record = recordOf(context);
    record.hold();
    try {
      const body = await eventStream(untilDone(), {
        ...this.#listener(context, controller),
        startMs: STREAM_START_MS,
        keepAliveMs: this.#options.keepAliveMs,
        started: record.generation?.started,
      });
      this.#tellCache(context);
      return context.body(body, 200, { ...EVENT_STREAM_HEADERS });
    } catch (error) {
      record.end();
      throw unlessLeft(context, error);
    }
  }

  #tellCache(context: Context): void {
    const { generation } = recordOf(context);
    if (generation !== undefined) context.header("x-sluice-cache", cacheHeader(generation));
  }

  /** Closes the record, which must be held, at the body's end. */
  #listener(context: Context, controller: AbortController): BodyListener {
    const record = recordOf(context);
    let cancelled = false;
    return {
      onCancel: () => {
        cancelled = true;
        controller.abort(new Error("the client closed the stream"));
      },
      onError: (error) => {
        if (context.req.raw.signal.aborted) return;
        record.failure = error;
        this.report(error);
      },
      onEnd: () => record.end({ left: cancelled || context.req.raw.signal.aborted }),
    };
  }

  /** A signal for the work of one request: client gone, server stopping, or `controller`. */
  #signal(request: Request, controller: AbortController): AbortSignal {
    const { shutdown } = this.#options;
    if (shutdown !== undefined) {
      const stop = () => controller.abort(stopping());
      if (shutdown.aborted) stop();
      shutdown.addEventListener("abort", stop, { signal: controller.signal, once: true });
    }
    request.signal.addEventListener("abort", () => controller.abort(request.signal.reason), {
      signal: controller.signal,
      once: true,
    });
    if (request.signal.aborted) controller.abort(request.signal.reason);
    return controller.signal;
  }
}

/** The error, unless the client has left: nobody reads that answer, and it is no fault. */
function unlessLeft(context: Context, error: unknown): unknown {
  const left = context.req.raw.signal.aborted;
  recordOf(context).left = left;
  // nginx's number for it.
  return left ? new RequestError("the client has left", { status: 499 }) : error;
}

function stopping(): UnavailableError {
  return new UnavailableError("the server is shutting down", "shutting_down");
}
