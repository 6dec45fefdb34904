/** Server-sent events from an async iterable, pulled at the client's pace. */

import { describeError } from "./errors.ts";
import { type BodyListener, isLate, within } from "./waiting.ts";

export interface EventStreamOptions extends BodyListener {
  /** Milliseconds without an event after which a comment keeps the connection in use. */
  readonly keepAliveMs: number;
  /** Milliseconds to wait for the first value, so that a refusal gets a status of its own. */
  readonly startMs: number;
  /** Ends that wait: from here on nothing is refused. */
  readonly started?: Promise<unknown>;
}

/**
 * Streams each value as one `data:` event, then `[DONE]`. An error becomes an event of the API's
 * error shape and ends the stream without `[DONE]`. Rejects with what the first value fails with in
 * time.
 */
export async function eventStream(
  values: AsyncIterable<unknown>,
  options: EventStreamOptions,
): Promise<ReadableStream<Uint8Array>> {
  const iterator = values[Symbol.asyncIterator]();
  const encoder = new TextEncoder();
  let pending: Promise<IteratorResult<unknown>> | undefined = iterator.next();
  // A rejection is handled where `pending` is awaited, which may be after a keep-alive.
  pending.catch(() => {});
  const { started = pending } = options;
  await within<unknown>(Promise.race([pending, started]), options.startMs);
  let cancelled = false;
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        pending ??= iterator.next();
        pending.catch(() => {});
        const result = await within(pending, options.keepAliveMs);
        if (cancelled) return;
        if (isLate(result)) {
          controller.enqueue(encoder.encode(": keep-alive\n\n"));
          return;
        }
        pending = undefined;
        if (!result.done) {
          controller.enqueue(encoder.encode(`data: ${JSON.stringify(result.value)}\n\n`));
          return;
        }
        controller.enqueue(encoder.encode("data: [DONE]\n\n"));
      } catch (error) {
        if (cancelled) return;
        options.onError(error);
        const { body } = describeError(error);
        controller.enqueue(encoder.encode(`data: ${JSON.stringify(body)}\n\n`));
      }
      controller.close();
      options.onEnd();
    },
    cancel() {
      cancelled = true;
      options.onCancel();
      // Not awaited: what waits inside next() returns only after that.
      iterator.return?.()?.catch(() => {});
      options.onEnd();
    },
  });
}

export const EVENT_STREAM_HEADERS: Readonly<Record<string, string>> = Object.freeze({
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache",
  // Asks reverse proxies not to hold events back.
  "x-accel-buffering": "no",
});
