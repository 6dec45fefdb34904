/** Puts the routes together. HTTP only: what a model is and how it answers is the text layer's. */

import { type Context, Hono } from "hono";
import { RequestError } from "../src/errors.ts";
import type { TextModel } from "../src/text/types.ts";
import { chatCompletions } from "./chat.ts";
import { completions } from "./completions.ts";
import { errorResponse, isFault } from "./errors.ts";
import { guard, LOOPBACK_HOSTS } from "./guard.ts";
import { moeStats, MoeStreams } from "./moe.ts";
import { Serving } from "./serving.ts";
import { health, listModels, showModel } from "./status.ts";
import { detokenize, tokenize, tokenizerInfo } from "./tokens.ts";
import { newId, nowSeconds } from "./wire.ts";

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
  /** Default 10 MiB. */
  readonly maxBodyBytes?: number;
  /** Milliseconds of silence after which a stream gets a comment. Default 10 s. */
  readonly keepAliveMs?: number;
  /** Milliseconds between two events of `/v1/moe/stream`. Default 1 s. */
  readonly moeIntervalMs?: number;
  /** Aborting it ends streams that would go on for ever (`/v1/moe/stream`); answers go on. */
  readonly draining?: AbortSignal;
  /** Aborting it ends running streams with an error event and refuses new requests. */
  readonly shutdown?: AbortSignal;
  /** Hears of faults whose cause the client is not told. */
  readonly onError?: (error: unknown) => void;
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

type Handler = (context: Context) => Response | Promise<Response>;

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
    keepAliveMs: options.keepAliveMs ?? DEFAULT_KEEP_ALIVE_MS,
    shutdown: options.shutdown,
    onError: report,
  });
  const moeStreams = new MoeStreams({
    intervalMs: options.moeIntervalMs ?? DEFAULT_MOE_INTERVAL_MS,
    draining: options.draining,
  });
  const created = nowSeconds();
  /** What produced an answer: model, type, backend, precision. */
  const served = () => {
    const { backend, activations, quantisation, architecture } = serving.model().info;
    const parts = [options.modelId, architecture, quantisation, backend, activations];
    return { modelId: options.modelId, fingerprint: fingerprintOf(parts.join("/")) };
  };
  const listed = { serving, created, name: { modelId: options.modelId, fingerprint: "" } };

  const app = new Hono();
  app.use(async (context, next) => {
    context.header("x-request-id", newId("req"));
    context.header("x-content-type-options", "nosniff");
    await next();
  });
  app.use(guard({
    hosts: options.allowedHosts ?? LOOPBACK_HOSTS,
    origins: options.allowedOrigins ?? [],
  }));

  const register = (method: "GET" | "POST", path: string, handler: Handler) => {
    for (const full of [path, `/v1${path}`]) {
      app.on(method, full, handler);
      app.all(full, (context) => {
        context.header("allow", method === "GET" ? "GET, HEAD" : method);
        const message = `method ${context.req.method} is not allowed here, must be ${method}`;
        return errorResponse(context, new RequestError(message, { status: 405 }));
      });
    }
  };
  register("GET", "/health", (context) => health(context, { serving }));
  register("GET", "/models", (context) => listModels(context, listed));
  register(
    "GET",
    "/models/:id{.+}",
    (context) => showModel(context, { ...listed, id: context.req.param("id") ?? "" }),
  );
  register("GET", "/moe/stats", (context) => moeStats(context, { serving }));
  register("GET", "/moe/stream", (context) => moeStreams.respond(context, { serving }));
  register("GET", "/tokenizer_info", (context) => tokenizerInfo(context, { serving }));
  register("POST", "/tokenize", (context) => tokenize(context, { serving }));
  register("POST", "/detokenize", (context) => detokenize(context, { serving }));
  register(
    "POST",
    "/chat/completions",
    (context) => chatCompletions(context, { serving, name: served() }),
  );
  register(
    "POST",
    "/completions",
    (context) => completions(context, { serving, name: served() }),
  );

  app.notFound((context) =>
    errorResponse(context, new RequestError("there is no such route", { status: 404 }))
  );
  app.onError((error, context) => {
    report(error);
    return errorResponse(context, error);
  });
  return app;
}
