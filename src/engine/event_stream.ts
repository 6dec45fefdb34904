/** Events of one request on their way to whoever iterates over them. */

import type { EngineEvent } from "./types.ts";

/** Takes the events of a request; after "done" or a failure nothing follows. */
export interface EventSink {
  push(event: EngineEvent): void;
  fail(error: unknown): void;
}

/**
 * An unbounded queue with one reader; a request's answer bounds it. Leaving the loop early calls
 * `onLeave` at once, even while a `next` is waiting.
 */
export class EventStream implements EventSink, AsyncIterableIterator<EngineEvent> {
  readonly #onLeave: () => void;
  readonly #events: EngineEvent[] = [];
  #failure: { readonly error: unknown } | null = null;
  #ended = false;
  #reader: PromiseWithResolvers<void> | null = null;

  constructor(onLeave: () => void) {
    this.#onLeave = onLeave;
  }

  push(event: EngineEvent): void {
    if (this.#ended) return;
    this.#events.push(event);
    if (event.type === "done") this.#ended = true;
    this.#wake();
  }

  /** The iteration throws this once the events before it are read. */
  fail(error: unknown): void {
    if (this.#ended) return;
    this.#failure = { error };
    this.#ended = true;
    this.#wake();
  }

  async next(): Promise<IteratorResult<EngineEvent>> {
    while (true) {
      const event = this.#events.shift();
      if (event !== undefined) return { done: false, value: event };
      if (this.#failure !== null) {
        const { error } = this.#failure;
        this.#failure = null;
        throw error;
      }
      if (this.#ended) return { done: true, value: undefined };
      this.#reader ??= Promise.withResolvers<void>();
      await this.#reader.promise;
    }
  }

  return(): Promise<IteratorResult<EngineEvent>> {
    const left = !this.#ended;
    this.#ended = true;
    this.#events.length = 0;
    this.#failure = null;
    this.#wake();
    if (left) this.#onLeave();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #wake(): void {
    this.#reader?.resolve();
    this.#reader = null;
  }
}
