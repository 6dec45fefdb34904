/** What every generating route shares: the model's state, limits, cancellation. */

import type { Context } from "hono";
import { RequestError } from "../src/errors.ts";
import type { TextModel } from "../src/text/types.ts";
import { UnavailableError } from "./errors.ts";
import { EVENT_STREAM_HEADERS, eventStream } from "./sse.ts";

/** Milliseconds within which a refusal still gets its own status instead of an error event. */
const STREAM_START_MS = 100;

export interface ServingOptions {
  readonly model: TextModel | Promise<TextModel>;
  readonly maxBodyBytes: number;
  readonly keepAliveMs: number;
  readonly shutdown?: AbortSignal;
  readonly onError: (error: unknown) => void;
}

/** The served model, from the start of loading on. */
export class Serving {
  readonly maxBodyBytes: number;
  readonly #options: ServingOptions;
  #model: TextModel | undefined;
  #failed = false;

  constructor(options: ServingOptions) {
    this.#options = options;
    this.maxBodyBytes = options.maxBodyBytes;
    if (options.model instanceof Promise) {
      options.model.then((model) => this.#model = model, () => this.#failed = true);
    } else this.#model = options.model;
  }

  state(): "loading" | "ready" | "failed" | "stopping" {
    if (this.#options.shutdown?.aborted) return "stopping";
    if (this.#failed) return "failed";
    return this.#model === undefined ? "loading" : "ready";
  }

  /** The loaded model. Throws UnavailableError (503) while there is none. */
  model(): TextModel {
    const state = this.state();
    if (state === "loading") throw new UnavailableError("the model is loading", "model_loading");
    if (state === "failed") throw new UnavailableError("the model did not load", "model_failed");
    if (state === "stopping") throw stopping();
    return this.#model!;
  }

  report(error: unknown): void {
    this.#options.onError(error);
  }

  /** A signal for the work of one request: client gone, server stopping, or `controller`. */
  signal(request: Request, controller: AbortController): AbortSignal {
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

  /** Runs `work` with a signal that is aborted when it is no longer wanted, or done. */
  async run<T>(context: Context, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const controller = new AbortController();
    try {
      return await work(this.signal(context.req.raw, controller));
    } catch (error) {
      // Nobody reads this answer, and a client that leaves is no fault.
      if (context.req.raw.signal.aborted) throw clientLeft();
      throw error;
    } finally {
      controller.abort(new Error("the request has been answered"));
    }
  }

  /** Answers with the chunks as server-sent events. */
  async stream(
    context: Context,
    chunks: (signal: AbortSignal) => AsyncIterable<unknown>,
  ): Promise<Response> {
    const controller = new AbortController();
    const signal = this.signal(context.req.raw, controller);
    async function* untilDone() {
      try {
        yield* chunks(signal);
      } finally {
        controller.abort(new Error("the stream has ended"));
      }
    }
    const body = await eventStream(untilDone(), {
      startMs: STREAM_START_MS,
      keepAliveMs: this.#options.keepAliveMs,
      onCancel: () => controller.abort(new Error("the client closed the stream")),
      onError: (error) => {
        if (!context.req.raw.signal.aborted) this.report(error);
      },
    });
    return context.body(body, 200, { ...EVENT_STREAM_HEADERS });
  }
}

/** 499 is nginx's number for it; the client never sees it. */
function clientLeft(): RequestError {
  return new RequestError("the client has left", { status: 499 });
}

function stopping(): UnavailableError {
  return new UnavailableError("the server is shutting down", "shutting_down");
}
