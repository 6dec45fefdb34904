/** The merge rules of a byte-pair encoding, ranked, and the two ways of applying them. */

import { tableSize } from "./vocabulary.ts";

/** Pieces up to this many bytes are merged by scanning all pairs; longer ones through a heap. */
export const SHORT_PIECE_BYTES = 48;

/** Merge rules as a table from pairs of ids to ranks; about 5 MB for 150,000 rules. */
export class Merges {
  readonly #left: Int32Array;
  readonly #right: Int32Array;
  readonly #merged: Int32Array;
  /** rank + 1, or 0 for an empty place. */
  readonly #table: Int32Array;
  #count = 0;

  constructor(capacity: number) {
    this.#left = new Int32Array(capacity);
    this.#right = new Int32Array(capacity);
    this.#merged = new Int32Array(capacity);
    this.#table = new Int32Array(tableSize(capacity));
  }

  /** Adds the rule of the next rank; false where the pair has one already. */
  add(left: number, right: number, merged: number): boolean {
    const mask = this.#table.length - 1;
    let at = hashPair(left, right) & mask;
    while (this.#table[at] !== 0) {
      const rank = this.#table[at] - 1;
      if (this.#left[rank] === left && this.#right[rank] === right) return false;
      at = (at + 1) & mask;
    }
    const rank = this.#count++;
    this.#left[rank] = left;
    this.#right[rank] = right;
    this.#merged[rank] = merged;
    this.#table[at] = rank + 1;
    return true;
  }

  /** The rank of the pair's rule, or NO_RULE. */
  rank(left: number, right: number): number {
    const mask = this.#table.length - 1;
    for (let at = hashPair(left, right) & mask;; at = (at + 1) & mask) {
      const rank = this.#table[at] - 1;
      if (rank < 0) return NO_RULE;
      if (this.#left[rank] === left && this.#right[rank] === right) return rank;
    }
  }

  /** The id that the rule makes of its pair. */
  merged(rank: number): number {
    return this.#merged[rank];
  }
}

/** Above every rank, so that the smallest rank wins without a special case. */
const NO_RULE = 0x7fffffff;

function hashPair(left: number, right: number): number {
  const hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca77);
  return hash ^ (hash >>> 15);
}

/** Merges short pieces in place; holds scratch space, never across a call. */
export class ShortMerger {
  readonly #merges: Merges;
  readonly #ranks = new Int32Array(SHORT_PIECE_BYTES);

  constructor(merges: Merges) {
    this.#merges = merges;
  }

  /** Applies the rules to `ids[0..count)` and returns how many ids remain there. */
  merge(ids: Int32Array, count: number): number {
    const merges = this.#merges;
    const ranks = this.#ranks;
    for (let i = 0; i + 1 < count; i++) ranks[i] = merges.rank(ids[i], ids[i + 1]);
    while (count > 1) {
      let best = 0;
      let lowest = NO_RULE;
      for (let i = 0; i + 1 < count; i++) {
        if (ranks[i] < lowest) {
          lowest = ranks[i];
          best = i;
        }
      }
      if (lowest === NO_RULE) break;
      ids[best] = merges.merged(lowest);
      count--;
      for (let i = best + 1; i < count; i++) {
        ids[i] = ids[i + 1];
        ranks[i] = ranks[i + 1];
      }
      if (best > 0) ranks[best - 1] = merges.rank(ids[best - 1], ids[best]);
      if (best + 1 < count) ranks[best] = merges.rank(ids[best], ids[best + 1]);
    }
    return count;
  }
}

/** Rule applications between two yields of `mergeLong`. */
const OPERATIONS_PER_YIELD = 4096;

/**
 * Applies the rules to the ids of a long piece in O(n log n): a heap of candidate pairs by rank,
 * then position, over a linked list. Yields now and then, for callers that must not block.
 */
export function* mergeLong(ids: Int32Array, merges: Merges): Generator<void, Int32Array> {
  const count = ids.length;
  const next = new Int32Array(count);
  const previous = new Int32Array(count);
  const heap = new PairHeap(count);
  for (let i = 0; i < count; i++) {
    next[i] = i + 1;
    previous[i] = i - 1;
    if (i + 1 < count) heap.push(merges.rank(ids[i], ids[i + 1]), i);
    if (i % OPERATIONS_PER_YIELD === OPERATIONS_PER_YIELD - 1) yield;
  }
  let operations = 0;
  while (heap.size > 0) {
    if (++operations % OPERATIONS_PER_YIELD === 0) yield;
    const at = heap.pop();
    const rank = heap.poppedRank;
    const right = next[at];
    // The pair has changed since it was pushed: its left half was merged away (-1) or either grew.
    if (ids[at] < 0 || right >= count || merges.rank(ids[at], ids[right]) !== rank) continue;
    ids[at] = merges.merged(rank);
    ids[right] = -1;
    const after = next[right];
    next[at] = after;
    if (after < count) {
      previous[after] = at;
      heap.push(merges.rank(ids[at], ids[after]), at);
    }
    const before = previous[at];
    if (before >= 0) heap.push(merges.rank(ids[before], ids[at]), before);
  }
  return ids.filter((id) => id >= 0);
}

const TWO_32 = 2 ** 32;

/** A binary heap of pairs; a key is rank * 2^32 + position, below 2^53 for 2^21 ranks. */
class PairHeap {
  #keys: Float64Array;
  size = 0;
  /** Rank of the pair that `pop` returned last. */
  poppedRank = 0;

  constructor(capacity: number) {
    this.#keys = new Float64Array(capacity);
  }

  /** Adds a candidate; pairs without a rule are left out. */
  push(rank: number, position: number): void {
    if (rank === NO_RULE) return;
    if (this.size === this.#keys.length) {
      const grown = new Float64Array(2 * this.size);
      grown.set(this.#keys);
      this.#keys = grown;
    }
    const keys = this.#keys;
    const key = rank * TWO_32 + position;
    let at = this.size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (keys[parent] <= key) break;
      keys[at] = keys[parent];
      at = parent;
    }
    keys[at] = key;
  }

  /** Removes the pair of lowest rank, the leftmost among equals, and returns its position. */
  pop(): number {
    const keys = this.#keys;
    const top = keys[0];
    const last = keys[--this.size];
    let at = 0;
    for (let child = 1; child < this.size; child = 2 * at + 1) {
      if (child + 1 < this.size && keys[child + 1] < keys[child]) child++;
      if (keys[child] >= last) break;
      keys[at] = keys[child];
      at = child;
    }
    keys[at] = last;
    this.poppedRank = Math.floor(top / TWO_32);
    return top - this.poppedRank * TWO_32;
  }
}
