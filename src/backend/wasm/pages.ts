/**
 * Pages of a cache in and out of the banks' memories. What is copied out depends on the tokens alone:
 * lanes of interleaved keys behind the last token are zeros, whatever they held.
 */

import { PAGE_TOKENS, type PagePart } from "../backend.ts";
import { layerPageBytes, type PageLayout, type PagePartLayout } from "../kv_layout.ts";
import type { WasmCache } from "./memory.ts";

/** Bytes that the first `tokens` tokens of a page take, of all layers. */
export function packedPageBytes({ layers, layout }: WasmCache, tokens: number): number {
  checkTokens(tokens);
  return layers * layout.reduce((sum, part) => sum + packedBytes(part, tokens), 0);
}

export function readPage(part: PagePart): Uint8Array<ArrayBuffer> {
  const cache = checkedCache(part);
  const { layout } = cache;
  const { tokens } = part;
  const bytes = new Uint8Array(packedPageBytes(cache, tokens));
  let to = 0;
  for (const page of pagesOf(cache, part.page)) {
    for (const run of runsOf(layout, tokens)) {
      bytes.set(page.subarray(run.at, run.at + run.bytes), to);
      to += run.bytes;
    }
  }
  clearMissingLanes(bytes, { layout, tokens });
  return bytes;
}

export function writePage(part: PagePart, bytes: Uint8Array): void {
  const cache = checkedCache(part);
  const { layout } = cache;
  const { tokens } = part;
  const wanted = packedPageBytes(cache, tokens);
  if (bytes.byteLength !== wanted) {
    throw new RangeError(
      `cannot write a page: its bytes are ${bytes.byteLength}, must be ${wanted} for ${tokens} tokens`,
    );
  }
  let from = 0;
  for (const page of pagesOf(cache, part.page)) {
    for (const run of runsOf(layout, tokens)) {
      page.set(bytes.subarray(from, from + run.bytes), run.at);
      from += run.bytes;
    }
  }
}

export function copyPage(part: PagePart, to: number): void {
  const cache = checkedCache(part);
  checkPage(cache, to);
  const targets = pagesOf(cache, to);
  for (const page of pagesOf(cache, part.page)) {
    const target = targets.next().value!;
    for (const { at, bytes } of runsOf(cache.layout, part.tokens)) {
      target.set(page.subarray(at, at + bytes), at);
    }
  }
}

function checkedCache({ cache, page, tokens }: PagePart): WasmCache {
  const wasm = cache as WasmCache;
  checkPage(wasm, page);
  checkTokens(tokens);
  return wasm;
}

function checkPage({ pages }: WasmCache, page: number): void {
  if (Number.isInteger(page) && page >= 0 && page < pages) return;
  throw new RangeError(`cannot copy a page: its number is ${page}, must be 0 to ${pages - 1}`);
}

function checkTokens(tokens: number): void {
  if (Number.isInteger(tokens) && tokens >= 1 && tokens <= PAGE_TOKENS) return;
  throw new RangeError(
    `cannot copy a page: its tokens are ${tokens}, must be 1 to ${PAGE_TOKENS}`,
  );
}

/** The page's bytes of each layer, in the banks' memories. */
function* pagesOf({ places, layout }: WasmCache, page: number): Generator<Uint8Array> {
  const bytes = layerPageBytes(layout);
  for (const { bank, address } of places) {
    yield new Uint8Array(bank.memory.buffer, address + page * bytes, bytes);
  }
}

/** Where the first tokens lie within a layer's page; one run where that is all of it. */
function runsOf(layout: PageLayout, tokens: number): { at: number; bytes: number }[] {
  if (tokens === PAGE_TOKENS) return [{ at: 0, bytes: layerPageBytes(layout) }];
  const runs: { at: number; bytes: number }[] = [];
  let at = 0;
  for (const part of layout) {
    runs.push({ at, bytes: packedBytes(part, tokens) });
    at += PAGE_TOKENS * part.tokenBytes;
  }
  return runs;
}

/** Interleaved tokens only come in whole groups. */
function packedBytes({ tokenBytes, lanes }: PagePartLayout, tokens: number): number {
  return Math.ceil(tokens / lanes) * lanes * tokenBytes;
}

/** Makes the lanes zero that belong to no token, in each layer's last group. */
function clearMissingLanes(
  bytes: Uint8Array<ArrayBuffer>,
  { layout, tokens }: { layout: PageLayout; tokens: number },
): void {
  if (layout.every(({ lanes }) => tokens % lanes === 0)) return;
  let at = 0;
  while (at < bytes.length) {
    for (const part of layout) {
      const { lanes, cellBytes, tokenBytes } = part;
      const end = at + packedBytes(part, tokens);
      const row = lanes * cellBytes;
      const used = tokens % lanes * cellBytes;
      if (used > 0) {
        for (let i = end - lanes * tokenBytes; i < end; i += row) bytes.fill(0, i + used, i + row);
      }
      at = end;
    }
  }
}
