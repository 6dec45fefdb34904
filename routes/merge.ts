/** Runs several answers side by side and gives their events as one stream. */

export interface Tagged<T> {
  readonly index: number;
  readonly event: T;
}

/**
 * Runs at most `limit` of the sources at a time, in their order. A source is one event
 * ahead of the consumer at most, so a slow consumer holds all of them back. The first error ends everything.
 * Sources must end by themselves when the consumer leaves (through a signal they share).
 */
export async function* merge<T>(
  sources: readonly (() => AsyncIterable<T>)[],
  limit: number,
): AsyncGenerator<Tagged<T>> {
  type Arrival = { index: number; result: IteratorResult<T> };
  const running = new Map<number, { iterator: AsyncIterator<T>; next: Promise<Arrival> }>();
  const advance = (index: number, iterator: AsyncIterator<T>) => {
    const next = iterator.next().then((result) => ({ index, result }));
    next.catch(() => {});
    running.set(index, { iterator, next });
  };
  let started = 0;
  try {
    while (running.size > 0 || started < sources.length) {
      while (running.size < limit && started < sources.length) {
        advance(started, sources[started]()[Symbol.asyncIterator]());
        started++;
      }
      const { index, result } = await Promise.race([...running.values()].map(({ next }) => next));
      const { iterator } = running.get(index)!;
      running.delete(index);
      if (result.done) continue;
      advance(index, iterator);
      yield { index, event: result.value };
    }
  } finally {
    // Not awaited: an iterator that waits inside next() returns only after that.
    for (const { iterator } of running.values()) iterator.return?.()?.catch(() => {});
  }
}
