/**
 * OpenTelemetry spans that last as long as the answer, its stream included. Without a provider
 * (Deno's own is there with OTEL_DENO=true) they cost nothing. No prompt and no answer goes into one.
 */

import {
  type Attributes,
  type Context,
  context,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  trace,
  type TracerProvider,
} from "@opentelemetry/api";

/** Version, trace id, parent's span id, flags; later versions may add to it. */
const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;

/** The context that a W3C `traceparent` header names; the root where it is wrong or missing. */
function contextOf(traceparent: string | null): Context {
  const match = TRACEPARENT.exec(traceparent ?? "");
  if (match === null || match[1] === "ff" || (match[1] === "00" && match[5])) return ROOT_CONTEXT;
  const [, , traceId, spanId, flags] = match;
  if (/^0+$/.test(traceId) || /^0+$/.test(spanId)) return ROOT_CONTEXT;
  const traceFlags = parseInt(flags, 16);
  return trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags, isRemote: true });
}

export interface RequestSpanOptions {
  readonly method: string;
  readonly traceparent: string | null;
  /** Default: the process's. */
  readonly provider?: TracerProvider;
}

/** The span of one request. */
export class RequestSpan {
  /** Undefined where nobody records it. */
  readonly traceId: string | undefined;
  readonly #span: Span;

  constructor({ method, traceparent, provider }: RequestSpanOptions) {
    const tracer = (provider ?? trace).getTracer("sluice");
    // A server that traces by itself has made a span already, with this request's parent.
    const active = context.active();
    const parent = trace.getSpan(active) === undefined ? contextOf(traceparent) : active;
    const attributes = { "http.request.method": method };
    this.#span = tracer.startSpan(method, { kind: SpanKind.SERVER, attributes }, parent);
    this.traceId = this.#span.isRecording() ? this.#span.spanContext().traceId : undefined;
  }

  rename(name: string, attributes: Attributes): void {
    this.#span.updateName(name);
    this.#span.setAttributes(attributes);
  }

  /** Names something that happens now. */
  event(name: string, attributes?: Attributes): void {
    this.#span.addEvent(name, attributes);
  }

  /** `error` names the kind of failure, where the server is to blame. */
  end(attributes: Attributes, error?: string): void {
    this.#span.setAttributes(attributes);
    if (error !== undefined) {
      this.#span.setAttribute("error.type", error);
      this.#span.setStatus({ code: SpanStatusCode.ERROR });
    }
    this.#span.end();
  }
}
