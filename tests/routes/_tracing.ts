/** A provider of OpenTelemetry's interface that keeps its spans. */

import {
  type Attributes,
  type AttributeValue,
  type Context,
  type Span,
  type SpanContext,
  type SpanOptions,
  trace,
  type TracerProvider,
} from "@opentelemetry/api";

export interface RecordedSpan {
  name: string;
  readonly options: SpanOptions;
  readonly parent: SpanContext | undefined;
  readonly attributes: Record<string, AttributeValue | undefined>;
  readonly events: string[];
  status: number;
  /** How often `end` was called. */
  ends: number;
}

function record(recorded: RecordedSpan, index: number): Span {
  const set = (attributes: Attributes) => Object.assign(recorded.attributes, attributes);
  const traceId = recorded.parent?.traceId ?? "f".repeat(32);
  const spanId = index.toString(16).padStart(16, "0");
  const span: Span = {
    spanContext: () => ({ traceId, spanId, traceFlags: 1 }),
    setAttribute: (name, value) => (set({ [name]: value }), span),
    setAttributes: (attributes) => (set(attributes), span),
    addEvent: (name) => (recorded.events.push(name), span),
    addLink: () => span,
    addLinks: () => span,
    setStatus: ({ code }) => {
      recorded.status = code;
      return span;
    },
    updateName: (name) => {
      recorded.name = name;
      return span;
    },
    end: () => recorded.ends++,
    isRecording: () => recorded.ends === 0,
    recordException: () => {},
  };
  return span;
}

export function recordingProvider(): { provider: TracerProvider; spans: RecordedSpan[] } {
  const spans: RecordedSpan[] = [];
  const provider: TracerProvider = {
    getTracer: () => ({
      startSpan(name: string, options: SpanOptions = {}, context?: Context) {
        const parent = context === undefined ? undefined : trace.getSpanContext(context);
        const attributes = { ...options.attributes };
        const span = { name, options, parent, attributes, events: [], status: 0, ends: 0 };
        spans.push(span);
        return record(span, spans.length);
      },
      startActiveSpan() {
        throw new Error("no part of what is tested");
      },
    }),
  };
  return { provider, spans };
}
