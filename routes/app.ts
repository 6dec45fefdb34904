/** Puts the routes together. HTTP only: what a model is and how it answers is the text layer's. */

import { type Context, Hono } from "hono";
import type { TracerProvider } from "@opentelemetry/api";
import { RequestError } from "../src/errors.ts";
import type { KeyRing } from "../src/server/api_keys.ts";
import type { LogEntry } from "../src/server/log.ts";
import type { TextModel } from "../src/text/types.ts";
import { PRESETS, type RewardWeights } from "../src/training/reward/mod.ts";
import { Admission } from "./admission.ts";
import { chatCompletions } from "./chat.ts";
import { completions } from "./completions.ts";
import { errorResponse, isFault } from "./errors.ts";
import { guard, LOOPBACK_HOSTS } from "./guard.ts";
import { moeStats, MoeStreams } from "./moe.ts";
import { observe } from "./observing.ts";
import { recordOf } from "./record.ts";
import { getReward } from "./reward.ts";
import { Serving } from "./serving.ts";
import { ServingMetrics } from "./serving_metrics.ts";
import { health, listModels, metrics, showModel } from "./status.ts";
import { detokenize, tokenize, tokenizerInfo } from "./tokens.ts";
import { nowSeconds } from "./wire.ts";

export interface AppOptions {
  /** The model, or the promise of one: until it is fulfilled, requests are answered with 503. */
  readonly model: TextModel | Promise<TextModel>;
  /** The name that answers carry and `/v1/models` lists. */
  readonly modelId: string;
  /**
   * Host headers to accept, without port. Default: this machine's own names. "any" switches the
   * check off, for an app behind something that checks.
   */
  readonly allowedHosts?: readonly string[] | "any";
  /** Origins of web pages that may call; default none. */
  readonly allowedOrigins?: readonly string[];
  /** The keys that callers need, for every path but `/health`; undefined: none is needed. */
  readonly keys?: KeyRing;
  /** Default 10 MiB. */
  readonly maxBodyBytes?: number;
  /**
   * Generating requests in progress at a time; others get 503 before their bodies are read. Default: as
   * many as the engine takes, which says so once it has seen the prompt.
   */
  readonly maxRequests?: number;
  /**
   * Milliseconds of silence after which a stream gets a comment, and a whole answer its status and a
   * blank line. Infinity: never. Default 10 s.
   */
  readonly keepAliveMs?: number;
  /** Milliseconds that a request may take which names no deadline; undefined: as long as it takes. */
  readonly deadlineMs?: number;
  /** Milliseconds between two events of `/v1/moe/stream`. Default 1 s. */
  readonly moeIntervalMs?: number;
  /** What `/get_reward` weighs where a request names nothing. Default: the preset `verifiable`. */
  readonly rewards?: RewardWeights;
  /**
   * Aborting it refuses new requests and ends streams that would go on for ever (`/v1/moe/stream`);
   * answers go on.
   */
  readonly draining?: AbortSignal;
  /** Aborting it ends running streams with an error event and refuses new requests. */
  readonly shutdown?: AbortSignal;
  /** Hears of faults whose cause the client is not told. */
  readonly onError?: (error: unknown) => void;
  /** Hears of each request when its answer is over; `/health` and `/metrics` only where they fail. */
  readonly log?: (entry: LogEntry) => void;
  /** False: nothing is counted, and there is no `/metrics`. Default true. */
  readonly metrics?: boolean;
  /** Makes the spans; default: the process's, if there is one. */
  readonly tracerProvider?: TracerProvider;
}

const DEFAULT_BODY_BYTES = 10 * 2 ** 20;
const DEFAULT_KEEP_ALIVE_MS = 10_000;
const DEFAULT_MOE_INTERVAL_MS = 1_000;

/** FNV-1a: a short name for a configuration, not a safeguard. */
function fingerprintOf(text: string): string {
  let hash = 0x811c9dc5;
  for (const char of text) hash = Math.imul(hash ^ char.codePointAt(0)!, 0x01000193) >>> 0;
  return `fp_${hash.toString(16).padStart(8, "0")}`;
}

interface RouteOptions {
  readonly handler: (context: Context) => Response | Promise<Response>;
  /** Needs no key. */
  readonly open?: boolean;
  /** Is asked all the time by whoever watches over the server. */
  readonly probe?: boolean;
}

/**
 * The API as a Hono app: `app.fetch` serves it, `other.route("/llm", app)` mounts it. Each path works
 * with and without `/v1` in front.
 */
export function createApp(options: AppOptions): Hono {
  const report = (error: unknown) => {
    if (isFault(error)) options.onError?.(error);
  };
  const serving = new Serving({
    model: options.model,
    maxBodyBytes: options.maxBodyBytes ?? DEFAULT_BODY_BYTES,
    maxRequests: options.maxRequests ?? Infinity,
    keepAliveMs: options.keepAliveMs ?? DEFAULT_KEEP_ALIVE_MS,
    deadlineMs: options.deadlineMs,
    draining: options.draining,
    shutdown: options.shutdown,
    onError: report,
  });
  const moeStreams = new MoeStreams({
    intervalMs: options.moeIntervalMs ?? DEFAULT_MOE_INTERVAL_MS,
    draining: options.draining,
  });
  const counted = options.metrics === false ? undefined : new ServingMetrics(options.modelId);
  const admission = options.keys === undefined ? undefined : new Admission(options.keys);
  const created = nowSeconds();
  /** What produced an answer: model, type, backend, precision. */
  const served = () => {
    const { backend, activations, quantisation, architecture } = serving.model().info;
    const parts = [options.modelId, architecture, quantisation, backend, activations];
    return { modelId: options.modelId, fingerprint: fingerprintOf(parts.join("/")) };
  };
  const listed = { serving, created, name: { modelId: options.modelId, fingerprint: "" } };

  const app = new Hono();
  app.use(observe({
    modelId: options.modelId,
    metrics: counted,
    log: options.log,
    tracerProvider: options.tracerProvider,
  }));
  app.use(async (context, next) => {
    context.header("x-content-type-options", "nosniff");
    await next();
  });
  app.use(guard({
    hosts: options.allowedHosts ?? LOOPBACK_HOSTS,
    origins: options.allowedOrigins ?? [],
  }));

  const register = (
    method: "GET" | "POST",
    path: string,
    { handler, open = false, probe = false }: RouteOptions,
  ) => {
    for (const full of [path, `/v1${path}`]) {
      app.on(method, full, (context) => {
        recordOf(context).route = { pattern: full, probe };
        if (!open) admission?.admit(context);
        return handler(context);
      });
      app.all(full, (context) => {
        if (!open) admission?.admit(context);
        context.header("allow", method === "GET" ? "GET, HEAD" : method);
        const message = `method ${context.req.method} is not allowed here, must be ${method}`;
        return errorResponse(context, new RequestError(message, { status: 405 }));
      });
    }
  };
  register("GET", "/health", {
    handler: (context) => health(context, { serving }),
    open: true,
    probe: true,
  });
  if (counted !== undefined) {
    register("GET", "/metrics", {
      handler: (context) => metrics(context, { serving, counted }),
      probe: true,
    });
  }
  register("GET", "/models", { handler: (context) => listModels(context, listed) });
  register("GET", "/models/:id{.+}", {
    handler: (context) => showModel(context, { ...listed, id: context.req.param("id") ?? "" }),
  });
  register("GET", "/moe/stats", { handler: (context) => moeStats(context, { serving }) });
  register("GET", "/moe/stream", {
    handler: (context) => moeStreams.respond(context, { serving }),
  });
  register("GET", "/tokenizer_info", {
    handler: (context) => tokenizerInfo(context, { serving }),
  });
  register("POST", "/tokenize", { handler: (context) => tokenize(context, { serving }) });
  register("POST", "/detokenize", { handler: (context) => detokenize(context, { serving }) });
  register("POST", "/get_reward", {
    handler: (context) =>
      getReward(context, { serving, weights: options.rewards ?? PRESETS.verifiable }),
  });
  register("POST", "/chat/completions", {
    handler: (context) => chatCompletions(context, { serving, name: served() }),
  });
  register("POST", "/completions", {
    handler: (context) => completions(context, { serving, name: served() }),
  });

  app.notFound((context) => {
    // Whoever has no key learns nothing of what there is.
    admission?.admit(context);
    return errorResponse(context, new RequestError("there is no such route", { status: 404 }));
  });
  app.onError((error, context) => {
    recordOf(context).failure = error;
    report(error);
    return errorResponse(context, error);
  });
  return app;
}
