/** Opens a record for each request, and tells metrics, spans and the log how it ended. */

import type { Context, MiddlewareHandler } from "hono";
import type { TracerProvider } from "@opentelemetry/api";
import type { LogEntry, LogLevel } from "../src/server/log.ts";
import { RequestSpan } from "../src/server/tracing.ts";
import { describeError } from "./errors.ts";
import { RequestRecord, setRecord } from "./record.ts";
import type { ServingMetrics } from "./serving_metrics.ts";
import { newId } from "./wire.ts";

export interface ObservingOptions {
  readonly modelId: string;
  /** Undefined: nothing is counted. */
  readonly metrics?: ServingMetrics;
  readonly log?: (entry: LogEntry) => void;
  readonly tracerProvider?: TracerProvider;
}

/** Ids that clients may choose themselves; others get one of ours. */
const REQUEST_ID = /^[A-Za-z0-9._-]{1,128}$/;

/** The code of what went wrong, or its kind where it is a fault; that a client left is nothing wrong. */
function failureName({ failure, left }: RequestRecord): string | undefined {
  if (failure === undefined || left) return undefined;
  const { body, status } = describeError(failure);
  return body.error.code ?? (status < 500 ? body.error.type : "fault");
}

function levelOf(record: RequestRecord): LogLevel {
  if (record.left) return "info";
  const status = record.failure === undefined
    ? record.status
    : describeError(record.failure).status;
  if (status === 500) return "error";
  return status >= 400 ? "warn" : "info";
}

/** Without what was asked or answered, and without the path, which holds what clients please. */
function logEntry(record: RequestRecord): LogEntry {
  const { generation, route } = record;
  const prompt = generation?.promptCounts();
  const choices = generation?.choices ?? [];
  const finishes = new Set(choices.flatMap(({ finish }) => finish ?? []));
  const first = Math.min(...choices.map(({ firstMs }) => firstMs ?? Infinity));
  const queued = choices.flatMap(({ timings }) => timings?.queueMs ?? []);
  return {
    level: levelOf(record),
    event: "request",
    id: record.id,
    trace: record.span.traceId,
    method: record.method,
    route: route?.pattern ?? "none",
    status: record.status,
    ms: record.elapsedMs(),
    key: record.key?.name,
    choices: generation?.choices.length,
    prompt_tokens: generation?.promptTokens(),
    completion_tokens: generation?.completionTokens(),
    cached_memory: prompt?.memory,
    cached_store: prompt?.store,
    queue_ms: queued.length > 0 ? Math.max(...queued) : undefined,
    first_token_ms: Number.isFinite(first) ? first : undefined,
    finish: finishes.size > 0 ? [...finishes].join(",") : undefined,
    left: record.left || undefined,
    error: failureName(record),
  };
}

/** In the names of OpenTelemetry's conventions for HTTP and generative AI, and vLLM's for latencies. */
function endSpan(record: RequestRecord, modelId: string): void {
  const { span, method, route, status, generation } = record;
  if (route !== undefined) {
    span.rename(`${method} ${route.pattern}`, { "http.route": route.pattern });
  }
  const prompt = generation?.promptCounts();
  const choices = generation?.choices ?? [];
  const first = Math.min(...choices.map(({ firstMs }) => firstMs ?? Infinity));
  const seconds = (of: "queueMs" | "prefillMs" | "decodeMs") =>
    Math.max(...choices.map(({ timings }) => timings?.[of] ?? 0)) / 1_000;
  const described = record.failure === undefined ? undefined : describeError(record.failure);
  span.end({
    "http.response.status_code": status,
    ...(generation !== undefined && {
      "gen_ai.operation.name": generation.operation,
      "gen_ai.provider.name": "sluice",
      "gen_ai.request.model": modelId,
      "gen_ai.response.model": modelId,
      "gen_ai.request.choice.count": choices.length,
      "gen_ai.usage.input_tokens": generation.promptTokens(),
      "gen_ai.usage.output_tokens": generation.completionTokens(),
      "gen_ai.usage.cache_read.input_tokens": (prompt?.memory ?? 0) + (prompt?.store ?? 0),
      "gen_ai.response.finish_reasons": choices.flatMap(({ finish }) => finish ?? []),
      "gen_ai.latency.time_in_queue": seconds("queueMs"),
      "gen_ai.latency.time_in_model_prefill": seconds("prefillMs"),
      "gen_ai.latency.time_in_model_decode": seconds("decodeMs"),
      ...(Number.isFinite(first) && { "gen_ai.latency.time_to_first_token": first / 1_000 }),
      "sluice.client_left": record.left,
    }),
  }, described !== undefined && described.status >= 500 ? failureName(record) : undefined);
}

/** Must stand before every handler: routes count on a record. */
export function observe(options: ObservingOptions): MiddlewareHandler {
  const { modelId, metrics, log, tracerProvider: provider } = options;
  return async (context: Context, next) => {
    const given = context.req.header("x-request-id");
    const id = given !== undefined && REQUEST_ID.test(given) ? given : newId("req");
    const { method } = context.req;
    const traceparent = context.req.header("traceparent") ?? null;
    const span = new RequestSpan({ method, traceparent, provider });
    const record = new RequestRecord({ id, method, span, listener: metrics });
    setRecord(context, record);
    record.onEnd(() => {
      endSpan(record, modelId);
      metrics?.ended(record);
      if (record.status >= 400 || record.route?.probe !== true) log?.(logEntry(record));
    });
    context.header("x-request-id", id);
    await next();
    record.answered(context.res.status);
  };
}
