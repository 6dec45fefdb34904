/** Streams that meet a fault, and what must be true of them whatever the fault was. */

import { assert, assertEquals } from "@std/assert";

/** What a stream gave, whole or until the error that ended it. */
export interface Ending {
  readonly text: string;
  readonly error: string | null;
}

/** How long the next answer may take: what `design/reliability.md` promises. */
export const NEXT_ANSWER_MS = 2000;
/** Nothing but a hang takes so long. */
export const HANG_MS = 30_000;
/** Streams that run side by side. */
export const STREAMS = 4;

/** Rejects where the promise has not settled in time. */
export async function within<T>(ms: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Each stream must be the fault-free one, or the beginning of it and then an error. Returns how many failed. */
export function checkEndings(endings: readonly Ending[], whole: readonly string[]): number {
  for (const [i, { text, error }] of endings.entries()) {
    if (error === null) assertEquals(text, whole[i], `stream ${i}`);
    else assert(whole[i].startsWith(text), `stream ${i} began with ${JSON.stringify(text)}`);
  }
  return endings.filter(({ error }) => error !== null).length;
}
