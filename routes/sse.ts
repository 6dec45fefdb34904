/** Server-sent events from an async iterable, pulled at the client's pace. */

import { describeError } from "./errors.ts";

export interface EventStreamOptions {
  /** Milliseconds without an event after which a comment keeps the connection in use. */
  readonly keepAliveMs: number;
  /** The client has left. */
  readonly onCancel: () => void;
  /** Hears of the error that broke the stream; the client gets an error event. */
  readonly onError: (error: unknown) => void;
}

const TIMEOUT = Symbol("timeout");

/** Resolves to TIMEOUT where `promise` takes longer than `ms`. */
async function within<T>(promise: Promise<T>, ms: number): Promise<T | typeof TIMEOUT> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<typeof TIMEOUT>((resolve) => {
    timer = setTimeout(() => resolve(TIMEOUT), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Streams each value as one `data:` event, then `[DONE]`. An error becomes an event of the API's
 * error shape and ends the stream without `[DONE]`. Waits up to `startMs` for the first value, so
 * that what is refused at once rejects here and gets a status of its own.
 */
export async function eventStream(
  values: AsyncIterable<unknown>,
  options: EventStreamOptions & { readonly startMs: number },
): Promise<ReadableStream<Uint8Array>> {
  const iterator = values[Symbol.asyncIterator]();
  const encoder = new TextEncoder();
  let pending: Promise<IteratorResult<unknown>> | undefined = iterator.next();
  // A rejection is handled where `pending` is awaited, which may be after a keep-alive.
  pending.catch(() => {});
  await within(pending, options.startMs);
  let cancelled = false;
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        pending ??= iterator.next();
        pending.catch(() => {});
        const result = await within(pending, options.keepAliveMs);
        if (cancelled) return;
        if (result === TIMEOUT) {
          controller.enqueue(encoder.encode(": keep-alive\n\n"));
          return;
        }
        pending = undefined;
        if (result.done) {
          controller.enqueue(encoder.encode("data: [DONE]\n\n"));
          controller.close();
        } else {
          controller.enqueue(encoder.encode(`data: ${JSON.stringify(result.value)}\n\n`));
        }
      } catch (error) {
        if (cancelled) return;
        options.onError(error);
        const { body } = describeError(error);
        controller.enqueue(encoder.encode(`data: ${JSON.stringify(body)}\n\n`));
        controller.close();
      }
    },
    cancel() {
      cancelled = true;
      options.onCancel();
    },
  });
}

export const EVENT_STREAM_HEADERS: Readonly<Record<string, string>> = Object.freeze({
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache",
  // Asks reverse proxies not to hold events back.
  "x-accel-buffering": "no",
});
