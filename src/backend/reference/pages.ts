/**
 * Pages of a cache in and out. The bytes are those of float32 numbers, array after array of each layer,
 * token after token.
 */

import { type ModelCache, PAGE_TOKENS, type PagePart } from "../backend.ts";
import { foreign } from "../op_checks.ts";
import { ReferenceKvCache, ReferenceLatentCache } from "./memory.ts";

/** Numbers that the first `tokens` tokens of a page have in all layers. */
export function pageLength(cache: ModelCache, tokens: number): number {
  checkTokens(tokens);
  return tokens * tablesOf(cache).reduce((sum, { width }) => sum + width, 0);
}

export function readPage(part: PagePart): Uint8Array<ArrayBuffer> {
  const { cache, tokens } = part;
  const numbers = new Float32Array(pageLength(cache, tokens));
  let at = 0;
  for (const row of rowsOf(part)) {
    numbers.set(row, at);
    at += row.length;
  }
  return new Uint8Array(numbers.buffer);
}

export function writePage(part: PagePart, bytes: Uint8Array): void {
  const wanted = pageLength(part.cache, part.tokens) * Float32Array.BYTES_PER_ELEMENT;
  if (bytes.byteLength !== wanted) {
    throw new RangeError(
      `cannot write a page: its bytes are ${bytes.byteLength}, must be ${wanted} for ${part.tokens} tokens`,
    );
  }
  const numbers = new Float32Array(bytes.slice().buffer);
  let at = 0;
  for (const row of rowsOf(part)) {
    row.set(numbers.subarray(at, at + row.length));
    at += row.length;
  }
}

/** The part's numbers in each array of the cache. */
function rowsOf({ cache, page, tokens }: PagePart): Float32Array[] {
  if (!Number.isInteger(page) || page < 0 || page >= cache.pages) {
    throw new RangeError(
      `cannot copy a page: its number is ${page}, must be 0 to ${cache.pages - 1}`,
    );
  }
  return tablesOf(cache).map(({ values, width }) => {
    const first = page * PAGE_TOKENS * width;
    return values.subarray(first, first + tokens * width);
  });
}

/** Every array that the cache keeps tokens in, with its numbers a token. */
function tablesOf(cache: ModelCache): { values: Float32Array; width: number }[] {
  if (cache instanceof ReferenceKvCache) {
    const { kvHeads, keyDim, valueDim } = cache;
    return cache.perLayer.flatMap(({ keys, values }) => [
      { values: keys, width: kvHeads * keyDim },
      { values, width: kvHeads * valueDim },
    ]);
  }
  if (cache instanceof ReferenceLatentCache) {
    const width = cache.latentDim + cache.ropeDim;
    return cache.perLayer.map(({ tokens }) => ({ values: tokens, width }));
  }
  throw foreign("cache");
}

function checkTokens(tokens: number): void {
  if (Number.isInteger(tokens) && tokens >= 1 && tokens <= PAGE_TOKENS) return;
  throw new RangeError(
    `cannot copy a page: its tokens are ${tokens}, must be 1 to ${PAGE_TOKENS}`,
  );
}
