/** `GET /v1/moe/stats` and `GET /v1/moe/stream`: which experts do the work, at a time or as it goes. */

import type { Context } from "hono";
import { summariseLoad } from "../src/engine/routing.ts";
import type { LayerRoutingStats, RoutingStats } from "../src/engine/types.ts";
import { UnavailableError } from "./errors.ts";
import type { Serving } from "./serving.ts";
import { EVENT_STREAM_HEADERS } from "./sse.ts";

/** Streams at a time: each asks the engine again and again. */
const MAX_STREAMS = 16;

function wireLayer({ layer, experts, topK, load, traffic }: LayerRoutingStats) {
  const { maxOverMean, entropy, dead } = summariseLoad(load);
  return {
    layer,
    experts,
    top_k: topK,
    load,
    max_over_mean: maxOverMean,
    entropy,
    dead_experts: dead,
    ...(traffic !== undefined && {
      cache: {
        resident: traffic.resident,
        hits: traffic.hits,
        prefetched: traffic.prefetched,
        misses: traffic.misses,
        predictions: traffic.predictions,
        bytes_read: traffic.bytesRead,
      },
    }),
  };
}

function wireStats({ counting, tokens, layers }: RoutingStats) {
  return { object: "moe.stats", counting, tokens, layers: layers.map(wireLayer) };
}

/** A dense model has no layers to list. */
export async function moeStats(
  context: Context,
  { serving }: { serving: Serving },
): Promise<Response> {
  return context.json(wireStats(await serving.model().routingStats()));
}

/** Resolves after `ms`, or at once where the signal is aborted. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}

export interface MoeStreamOptions {
  /** Milliseconds between two events. */
  readonly intervalMs: number;
  /** Aborting it ends the streams, which would otherwise outlast every answer. */
  readonly draining?: AbortSignal;
}

/** The streams of one app. */
export class MoeStreams {
  readonly #options: MoeStreamOptions;
  #open = 0;

  constructor(options: MoeStreamOptions) {
    this.#options = options;
  }

  /** The statistics now, then again after each interval in which a token was computed. */
  async respond(context: Context, { serving }: { serving: Serving }): Promise<Response> {
    const model = serving.model();
    // Nobody would read the body, nor close it.
    if (context.req.method === "HEAD") return context.body(null, 200, { ...EVENT_STREAM_HEADERS });
    if (this.#open >= MAX_STREAMS) {
      const message = `${MAX_STREAMS} streams of this kind are open, there must be fewer`;
      throw new UnavailableError(message, "too_many_streams");
    }
    this.#open++;
    const leave = () => this.#open--;
    return await serving.stream(context, (signal) => {
      // Not in a `finally`: who leaves between two events ends no iteration.
      if (signal.aborted) leave();
      else signal.addEventListener("abort", leave, { once: true });
      return this.#events(() => model.routingStats(), signal);
    });
  }

  async *#events(read: () => Promise<RoutingStats>, signal: AbortSignal) {
    const { intervalMs, draining } = this.#options;
    const ended = draining === undefined ? signal : AbortSignal.any([signal, draining]);
    let seen = -1;
    while (!ended.aborted) {
      const stats = await read();
      if (stats.tokens !== seen) yield wireStats(stats);
      seen = stats.tokens;
      await pause(intervalMs, ended);
    }
  }
}
