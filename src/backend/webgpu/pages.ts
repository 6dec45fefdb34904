/**
 * Pages of a cache in and out. A page's bytes are those of each layer's arrays one after the other, each
 * the run of the tokens asked for.
 */

import { PAGE_TOKENS } from "../backend.ts";
import { arraysOf, type GpuCache } from "./memory.ts";

export function pageBytes(cache: GpuCache, tokens: number): number {
  checkTokens(tokens);
  return tokens * arraysOf(cache).reduce((sum, { tokenBytes }) => sum + tokenBytes, 0);
}

interface Run {
  readonly memory: GPUBuffer;
  /** First byte in the array, and in the page's bytes. */
  readonly offset: number;
  readonly at: number;
  readonly bytes: number;
}

/** Where the bytes of some of a page lie. */
export function pageRuns(
  { cache, page, tokens }: { cache: GpuCache; page: number; tokens: number },
): Run[] {
  checkPage(cache, page);
  checkTokens(tokens);
  let at = 0;
  return arraysOf(cache).map(({ memory, offset, tokenBytes }) => {
    const bytes = tokens * tokenBytes;
    const run = { memory, offset: offset + page * PAGE_TOKENS * tokenBytes, at, bytes };
    at += bytes;
    return run;
  });
}

export function checkPageBytes(
  bytes: number,
  { is, tokens }: { is: number; tokens: number },
): void {
  if (is === bytes) return;
  throw new RangeError(
    `cannot write a page: its bytes are ${is}, must be ${bytes} for ${tokens} tokens`,
  );
}

function checkPage({ pages }: GpuCache, page: number): void {
  if (Number.isInteger(page) && page >= 0 && page < pages) return;
  throw new RangeError(`cannot copy a page: its number is ${page}, must be 0 to ${pages - 1}`);
}

function checkTokens(tokens: number): void {
  if (Number.isInteger(tokens) && tokens >= 1 && tokens <= PAGE_TOKENS) return;
  throw new RangeError(
    `cannot copy a page: its tokens are ${tokens}, must be 1 to ${PAGE_TOKENS}`,
  );
}
