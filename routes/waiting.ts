/** A whole answer that takes its time: blank lines before the JSON tell that it is being worked on. */

import { describeError } from "./errors.ts";

const TIMEOUT = Symbol("timeout");

/** Resolves to TIMEOUT where `promise` takes longer than `ms`; Infinity waits as long as it takes. */
export async function within<T>(promise: Promise<T>, ms: number): Promise<T | typeof TIMEOUT> {
  if (ms === Infinity) return await promise;
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

export function isLate(value: unknown): value is typeof TIMEOUT {
  return value === TIMEOUT;
}

/** Who hears of a body's end; `onEnd` comes last and once. */
export interface BodyListener {
  /** The client has left. */
  readonly onCancel: () => void;
  /** Hears of the error that broke the answer; the client gets it in the API's shape. */
  readonly onError: (error: unknown) => void;
  readonly onEnd: () => void;
}

/**
 * A body that begins with a blank line, sends another after each `keepAliveMs`, and ends with the value
 * as JSON, or with the error object: the status has been sent.
 */
export function waitingBody(
  value: Promise<unknown>,
  options: BodyListener & { readonly keepAliveMs: number },
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let cancelled = false;
  let begun = false;
  // A rejection is handled where `value` is awaited.
  value.catch(() => {});
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const result = begun ? await within(value, options.keepAliveMs) : TIMEOUT;
        begun = true;
        if (cancelled) return;
        controller.enqueue(encoder.encode(isLate(result) ? "\n" : JSON.stringify(result)));
        if (isLate(result)) return;
      } catch (error) {
        if (cancelled) return;
        options.onError(error);
        controller.enqueue(encoder.encode(JSON.stringify(describeError(error).body)));
      }
      controller.close();
      options.onEnd();
    },
    cancel() {
      cancelled = true;
      options.onCancel();
      options.onEnd();
    },
  });
}
