/** Arrays of caches of keys and values and of latents. */

import {
  type KvCacheOptions,
  type KvType,
  type LatentCacheOptions,
  PAGE_TOKENS,
} from "../backend.ts";
import { SCALE_BLOCK } from "../kv_layout.ts";
import type { GpuAllocator } from "./allocator.ts";
import type { CacheArrays, GpuKvCache, GpuLatentCache } from "./memory.ts";

/** Numbers that a 32-bit word holds. */
export const WORD_NUMBERS: Record<KvType, number> = { f32: 1, f16: 2, q8: 4 };

export function createKvCache(allocator: GpuAllocator, options: KvCacheOptions): GpuKvCache {
  const { type, layers, pages, kvHeads, keyDim, valueDim } = options;
  const create = (dim: number) =>
    createArrays(allocator, { type, pages, vectors: Array<number>(kvHeads).fill(dim) });
  const perLayer = Array.from({ length: layers }, () => ({
    keys: create(keyDim),
    values: create(valueDim),
  }));
  const byteLength = bytesOf(perLayer.flatMap(({ keys, values }) => [keys, values]));
  return { ...options, perLayer, byteLength };
}

export function createLatentCache(
  allocator: GpuAllocator,
  options: LatentCacheOptions,
): GpuLatentCache {
  const { type, layers, pages, latentDim, ropeDim } = options;
  const perLayer = Array.from(
    { length: layers },
    () => createArrays(allocator, { type, pages, vectors: [latentDim, ropeDim] }),
  );
  return { ...options, perLayer, byteLength: bytesOf(perLayer) };
}

/** Words of a vector of so many numbers, and float32 scales. */
export function vectorWords(type: KvType, dim: number): { numbers: number; scales: number } {
  return {
    numbers: Math.ceil(dim / WORD_NUMBERS[type]),
    scales: type === "q8" ? Math.ceil(dim / SCALE_BLOCK) : 0,
  };
}

function createArrays(
  allocator: GpuAllocator,
  { type, pages, vectors }: { type: KvType; pages: number; vectors: readonly number[] },
): CacheArrays {
  const tokenBytes = (part: "numbers" | "scales") =>
    4 * vectors.reduce((sum, dim) => sum + vectorWords(type, dim)[part], 0);
  const [numbers, scales] = [tokenBytes("numbers"), tokenBytes("scales")];
  const tokens = pages * PAGE_TOKENS;
  const memory = allocator.allocate("kv", tokens * (numbers + scales), "the cache");
  return {
    numbers: { memory, offset: 0, tokenBytes: numbers },
    scales: scales === 0 ? null : { memory, offset: tokens * numbers, tokenBytes: scales },
  };
}

function bytesOf(arrays: readonly CacheArrays[]): number {
  return arrays.reduce((sum, { numbers }) => sum + numbers.memory.size, 0);
}
