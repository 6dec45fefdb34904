/**
 * Sorts pairs of a row and one of its experts by expert, on the device: a counting sort in one workgroup.
 * Nothing depends on the order of an expert's pairs, so that their places are given out as they come.
 */

import { BUILTINS } from "../kernel.ts";
import type { OpContext } from "./context.ts";

const THREADS = 256;
/** Words of a tile in the schedule: its expert, its first place among the sorted pairs, its pairs. */
export const TILE_WORDS = 3;

/** Pairs sorted by expert, and cut into tiles of one expert each. */
export interface Schedule {
  /** u32: `tiles` tiles, those behind the last one without pairs; then the sorted pairs. */
  readonly memory: GPUBuffer;
  /** As many as there can be. */
  readonly tiles: number;
  /** Pairs of a tile, at most. */
  readonly tokens: number;
}

/** Pairs of float32 that share loads of weights: not many more than an expert has on average. */
export function tokensOfTile(pairs: number, count: number): number {
  const average = pairs / count;
  return average <= 3 ? 4 : average <= 6 ? 8 : average <= 20 ? 16 : 32;
}

/** The same of integers: eight by eight up to some, of which those that aren't there cost nothing. */
export function tokensOfIntegerTile(pairs: number, count: number): 8 | 32 {
  return pairs / count <= 24 ? 8 : 32;
}

/** `pairs` pairs from `firstPair` of `expertIds` on, numbered from 0. */
export function sortByExpert(
  context: OpContext,
  { expertIds, firstPair, pairs, count, tokens }: {
    expertIds: GPUBuffer;
    firstPair: number;
    pairs: number;
    count: number;
    tokens: number;
  },
): Schedule {
  // Each expert that has pairs has one tile that may not be full.
  const tiles = Math.floor((pairs + Math.min(count, pairs) * (tokens - 1)) / tokens);
  const memory = context.scratch("experts' schedule", (tiles * TILE_WORDS + pairs) * 4);
  context.run({
    label: "experts sort",
    bindings: [
      { name: "expertIds", buffer: expertIds, type: "array<i32>" },
      { name: "schedule", buffer: memory, type: "array<u32>", write: true },
    ],
    params: { firstPair, pairs, tiles },
    workgroups: 1,
    code: `
const COUNT = ${count}u;
// Of each expert: its pairs, later the place of the next one.
var<workgroup> counts: array<atomic<u32>, ${count}>;
var<workgroup> places: array<u32, ${count + 1}>;
var<workgroup> firstTiles: array<u32, ${count + 1}>;
@compute @workgroup_size(${THREADS}) fn main(${BUILTINS}) {
  for (var e = lane; e < COUNT; e += ${THREADS}u) { atomicStore(&counts[e], 0u); }
  workgroupBarrier();
  for (var pair = lane; pair < params.pairs; pair += ${THREADS}u) {
    let id = u32(expertIds[params.firstPair + pair]);
    if (id < COUNT) { atomicAdd(&counts[id], 1u); }
  }
  workgroupBarrier();
  for (var e = lane; e <= COUNT; e += ${THREADS}u) {
    var place = 0u;
    var tile = 0u;
    for (var before = 0u; before < e; before++) {
      let pairs = atomicLoad(&counts[before]);
      place += pairs;
      tile += (pairs + ${tokens - 1}u) / ${tokens}u;
    }
    places[e] = place;
    firstTiles[e] = tile;
  }
  workgroupBarrier();
  for (var e = lane; e < COUNT; e += ${THREADS}u) { atomicStore(&counts[e], places[e]); }
  workgroupBarrier();
  for (var pair = lane; pair < params.pairs; pair += ${THREADS}u) {
    let id = u32(expertIds[params.firstPair + pair]);
    if (id < COUNT) {
      let place = atomicAdd(&counts[id], 1u);
      schedule[params.tiles * ${TILE_WORDS}u + place] = pair;
    }
  }
  for (var tile = lane; tile < params.tiles; tile += ${THREADS}u) {
    // The last expert whose first tile is at most this one: those without pairs lie before it.
    var low = 0u;
    var high = COUNT;
    while (low < high) {
      let middle = (low + high) / 2u;
      if (firstTiles[middle + 1u] <= tile) { low = middle + 1u; } else { high = middle; }
    }
    var first = 0u;
    var pairs = 0u;
    if (low < COUNT) {
      first = places[low] + (tile - firstTiles[low]) * ${tokens}u;
      pairs = min(${tokens}u, places[low + 1u] - first);
    }
    schedule[tile * ${TILE_WORDS}u] = low;
    schedule[tile * ${TILE_WORDS}u + 1u] = first;
    schedule[tile * ${TILE_WORDS}u + 2u] = pairs;
  }
}`,
  });
  return { memory, tiles, tokens };
}
