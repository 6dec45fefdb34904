/**
 * How the wasm backend lays a page of the cache out, and so how many bytes a token takes. A page of a
 * layer is a row of parts; each holds so many bytes of every token. Keys are interleaved: lanes of
 * neighbouring tokens lie side by side, number by number.
 */

import {
  type KvCacheOptions,
  type KvType,
  type LatentCacheOptions,
  PAGE_TOKENS,
} from "./backend.ts";

/** Numbers that share a scale in a cache of type q8. */
export const SCALE_BLOCK = 32;

/** Tokens whose keys lie side by side. */
const KEY_LANES = 8;
const SCALE_BYTES = 4;
const NUMBER_BYTES: Record<KvType, number> = { f32: 4, f16: 2, q8: 1 };

/** A run of a page: all tokens' numbers (or scales) of one kind, of one head. */
export interface PagePartLayout {
  /** Bytes of one token. */
  readonly tokenBytes: number;
  /** Tokens that lie interleaved, cell by cell; 1 where each token's bytes are a run. */
  readonly lanes: number;
  /** Bytes of a cell. */
  readonly cellBytes: number;
}

/** The parts of a page of one layer, in the order of memory. */
export type PageLayout = readonly PagePartLayout[];

/** Keys of a head, then its values, head by head. */
export function kvPageLayout(
  { type, kvHeads, keyDim, valueDim }: Omit<KvCacheOptions, "layers" | "pages">,
): PageLayout {
  const head = [...partsOf(type, keyDim, KEY_LANES), ...partsOf(type, valueDim, 1)];
  return Array.from({ length: kvHeads }, () => head).flat();
}

/** Rows of latent and rotary key. */
export function latentPageLayout(
  { type, latentDim, ropeDim }: Omit<LatentCacheOptions, "layers" | "pages">,
): PageLayout {
  const cellBytes = NUMBER_BYTES[type];
  const rows = { tokenBytes: (latentDim + ropeDim) * cellBytes, lanes: 1, cellBytes };
  if (type !== "q8") return [rows];
  const scales = blocksOf(latentDim) + blocksOf(ropeDim);
  return [rows, { tokenBytes: scales * SCALE_BYTES, lanes: 1, cellBytes: SCALE_BYTES }];
}

/** Bytes of a token in one layer. */
export function layerTokenBytes(layout: PageLayout): number {
  return layout.reduce((sum, { tokenBytes }) => sum + tokenBytes, 0);
}

/** Bytes of a whole page of one layer. */
export function layerPageBytes(layout: PageLayout): number {
  return PAGE_TOKENS * layerTokenBytes(layout);
}

function partsOf(type: KvType, dim: number, lanes: number): PagePartLayout[] {
  const cellBytes = NUMBER_BYTES[type];
  const numbers = { tokenBytes: dim * cellBytes, lanes, cellBytes };
  if (type !== "q8") return [numbers];
  return [numbers, { tokenBytes: blocksOf(dim) * SCALE_BYTES, lanes, cellBytes: SCALE_BYTES }];
}

function blocksOf(dim: number): number {
  return Math.ceil(dim / SCALE_BLOCK);
}
