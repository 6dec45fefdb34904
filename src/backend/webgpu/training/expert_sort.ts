/**
 * Pairs of a row and one of its experts, sorted by expert on the device: those of one expert in ascending
 * order, since sums over them have that order. A counting sort: each run of pairs is counted, the counts
 * become first places, and each pair goes to its own.
 */

import type { Buffer } from "../../backend.ts";
import type { OpContext } from "../ops/context.ts";
import { kernel, reads, writes } from "./arrays.ts";

/** Pairs of a run, a thread each. */
const RUN = 256;
/** Words of a tile: its expert, its first place, its pairs. */
const TILE_WORDS = 3;

/** Words of the schedule: where each expert's pairs begin, and the last ones end; tiles; sorted pairs. */
export interface Schedule {
  readonly memory: GPUBuffer;
  readonly count: number;
  /** As many as there can be; those behind the last one have no pairs. */
  readonly tiles: number;
}

/** WGSL that declares the tile's `id`, `m0` and `m_end`, or returns. */
export function tileOf({ count, tiles }: Schedule, schedule: string, tile: string): string {
  const at = `${count + 1}u + ${tile} * ${TILE_WORDS}u`;
  return `
  if (${tile} >= ${tiles}u) { return; }
  let id = ${schedule}[${at}];
  let m0 = ${schedule}[${at} + 1u];
  let m_end = m0 + ${schedule}[${at} + 2u];
  if (m_end == m0) { return; }`;
}

/** WGSL of the pair at a place. */
export function pairAt({ count, tiles }: Schedule, schedule: string, place: string): string {
  return `${schedule}[${count + 1 + tiles * TILE_WORDS}u + ${place}]`;
}

/** `side` is how many pairs a tile has at most. */
export function sortedByExpert(
  context: OpContext,
  { expertIds, pairs, count, side }: {
    expertIds: Buffer;
    pairs: number;
    count: number;
    side: number;
  },
): Schedule {
  const runs = Math.ceil(pairs / RUN);
  // Each expert that has pairs has one tile that may not be full.
  const tiles = Math.floor((pairs + Math.min(count, pairs) * (side - 1)) / side);
  const counts = context.scratch("experts' counts", runs * count * 4);
  const memory = context.scratch(
    "experts' pairs",
    (count + 1 + tiles * TILE_WORDS + pairs) * 4,
  );
  const schedule: Schedule = { memory, count, tiles };
  context.run(kernel({
    label: "experts counts",
    arrays: { ids: reads(expertIds), counts: writes(counts, "u32") },
    params: { pairs, runs },
    workgroups: runs,
    threads: RUN,
    declare: () => `var<workgroup> chosen: array<atomic<u32>, ${count}>;`,
    body: (names) => `
  if (workgroup >= params.runs) { return; }
  for (var e = lane; e < ${count}u; e += ${RUN}u) { atomicStore(&chosen[e], 0u); }
  workgroupBarrier();
  let pair = workgroup * ${RUN}u + lane;
  if (pair < params.pairs) {
    let id = u32(${names.ids}[pair]);
    if (id < ${count}u) { atomicAdd(&chosen[id], 1u); }
  }
  workgroupBarrier();
  for (var e = lane; e < ${count}u; e += ${RUN}u) {
    ${names.counts}[workgroup * ${count}u + e] = atomicLoad(&chosen[e]);
  }`,
  }));
  context.run(kernel({
    label: "experts places",
    arrays: { counts: writes(counts, "u32"), schedule: writes(memory, "u32") },
    params: { runs },
    workgroups: 1,
    threads: RUN,
    declare: () => `
var<workgroup> pairs: array<u32, ${count}>;
var<workgroup> first_tiles: array<u32, ${count + 1}>;
var<workgroup> places: array<u32, ${count + 1}>;`,
    body: (names) => `
  for (var e = lane; e < ${count}u; e += ${RUN}u) {
    var sum = 0u;
    for (var run = 0u; run < params.runs; run++) {
      let at = run * ${count}u + e;
      let own = ${names.counts}[at];
      ${names.counts}[at] = sum;
      sum += own;
    }
    pairs[e] = sum;
  }
  workgroupBarrier();
  for (var e = lane; e <= ${count}u; e += ${RUN}u) {
    var place = 0u;
    var tile = 0u;
    for (var before = 0u; before < e; before++) {
      place += pairs[before];
      tile += (pairs[before] + ${side - 1}u) / ${side}u;
    }
    places[e] = place;
    first_tiles[e] = tile;
    ${names.schedule}[e] = place;
  }
  workgroupBarrier();
  for (var tile = lane; tile < ${tiles}u; tile += ${RUN}u) {
    // The last expert whose first tile is at most this one: those without pairs lie before it.
    var low = 0u;
    var high = ${count}u;
    while (low < high) {
      let middle = (low + high) / 2u;
      if (first_tiles[middle + 1u] <= tile) { low = middle + 1u; } else { high = middle; }
    }
    var first = 0u;
    var held = 0u;
    if (low < ${count}u) {
      first = places[low] + (tile - first_tiles[low]) * ${side}u;
      held = min(${side}u, places[low + 1u] - first);
    }
    let at = ${count + 1}u + tile * ${TILE_WORDS}u;
    ${names.schedule}[at] = low;
    ${names.schedule}[at + 1u] = first;
    ${names.schedule}[at + 2u] = held;
  }`,
  }));
  context.run(kernel({
    label: "experts sorted",
    arrays: {
      ...{ ids: reads(expertIds), counts: reads(counts, "u32") },
      schedule: writes(memory, "u32"),
    },
    params: { pairs, runs },
    workgroups: runs,
    threads: RUN,
    declare: () => `var<workgroup> held: array<u32, ${RUN}>;`,
    body: (names) => `
  if (workgroup >= params.runs) { return; }
  let pair = workgroup * ${RUN}u + lane;
  var id = ${count}u;
  if (pair < params.pairs) { id = min(u32(${names.ids}[pair]), ${count}u); }
  held[lane] = id;
  workgroupBarrier();
  if (id >= ${count}u) { return; }
  var place = ${names.schedule}[id] + ${names.counts}[workgroup * ${count}u + id];
  for (var before = 0u; before < lane; before++) { place += u32(held[before] == id); }
  ${pairAt(schedule, names.schedule, "place")} = pair;`,
  }));
  return schedule;
}
