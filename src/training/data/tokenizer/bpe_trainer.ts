/**
 * Learns the merges of a byte-pair encoding (Sennrich et al. 2016) from counted pieces. The pair that
 * occurs most is merged first; among equals the one with the smaller ids, so that the result depends on
 * the counts alone. That is the order of Hugging Face's trainer, too.
 */

export interface TrainOptions {
  /** Ids of a piece's bytes at the start; ids given to merges follow behind `firstId`. */
  readonly byteIds: readonly number[];
  readonly firstId: number;
  /** New ids, at most. */
  readonly count: number;
  /** Pairs that occur less often are left. */
  readonly minCount: number;
  readonly onProgress?: (merges: number) => void;
}

export interface Merge {
  readonly left: number;
  readonly right: number;
  readonly id: number;
}

/** Ids stay below this, so that a pair is one exact number. */
const MAX_ID = 2 ** 21;
/** Merges between two reports. */
const MERGES_PER_REPORT = 64;

/** The merges in the order in which they are applied; few share the token that they make. */
export function trainMerges(
  pieces: ReadonlyMap<string, number>,
  options: TrainOptions,
): Merge[] {
  const trainer = new Trainer(pieces, options);
  const merges: Merge[] = [];
  let next = options.firstId;
  while (next < options.firstId + options.count) {
    const merge = trainer.step(next);
    if (merge === null) break;
    merges.push(merge);
    if (merge.id === next) next++;
    if (merges.length % MERGES_PER_REPORT === 0) options.onProgress?.(next - options.firstId);
  }
  return merges;
}

class Trainer {
  /** Ids of each distinct piece, and how often it occurs. */
  readonly #words: number[][] = [];
  readonly #wordCounts: number[] = [];
  readonly #pairCounts = new Map<number, number>();
  /** The words in which a pair may occur; some no longer have it. */
  readonly #places = new Map<number, Set<number>>();
  readonly #queue = new PairQueue();
  readonly #minCount: number;
  /** A token's bytes as a text of Latin-1, both ways: two merges can lead to one token. */
  readonly #texts = new Map<number, string>();
  readonly #ids = new Map<string, number>();

  constructor(pieces: ReadonlyMap<string, number>, options: TrainOptions) {
    this.#minCount = Math.max(1, options.minCount);
    options.byteIds.forEach((id, byte) => this.#name(String.fromCharCode(byte), id));
    const encoder = new TextEncoder();
    for (const [piece, count] of pieces) {
      const word = Array.from(encoder.encode(piece), (byte) => options.byteIds[byte]);
      const index = this.#words.push(word) - 1;
      this.#wordCounts.push(count);
      this.#count(index, 1);
    }
    for (const [pair, count] of this.#pairCounts) this.#queue.push({ pair, count });
  }

  /** Adds or takes away the pairs of a word; returns them. */
  #count(index: number, sign: 1 | -1): number[] {
    const word = this.#words[index];
    const weight = sign * this.#wordCounts[index];
    const pairs: number[] = [];
    for (let i = 0; i + 1 < word.length; i++) {
      const pair = word[i] * MAX_ID + word[i + 1];
      pairs.push(pair);
      this.#pairCounts.set(pair, (this.#pairCounts.get(pair) ?? 0) + weight);
      if (sign < 0) continue;
      const places = this.#places.get(pair);
      if (places === undefined) this.#places.set(pair, new Set([index]));
      else places.add(index);
    }
    return pairs;
  }

  /** The id of a token, `id` where it is new. */
  #name(text: string, id: number): number {
    const known = this.#ids.get(text);
    if (known !== undefined) return known;
    this.#ids.set(text, id);
    this.#texts.set(id, text);
    return id;
  }

  /** Merges the commonest pair to a token, with id `next` if it is new; null where none is common. */
  step(next: number): Merge | null {
    const pair = this.#commonest();
    if (pair === null) return null;
    const [left, right] = [Math.floor(pair / MAX_ID), pair % MAX_ID];
    const id = this.#name(this.#texts.get(left)! + this.#texts.get(right)!, next);
    const made = new Set<number>();
    for (const index of this.#places.get(pair) ?? []) {
      const word = this.#words[index];
      const merged = replacePair(word, { left, right, id });
      if (merged.length === word.length) continue;
      this.#count(index, -1);
      this.#words[index] = merged;
      // Counts that have grown must be queued; those that have shrunk are noticed when they come up.
      for (const other of this.#count(index, 1)) made.add(other);
    }
    this.#places.delete(pair);
    this.#pairCounts.delete(pair);
    for (const other of made) {
      this.#queue.push({ pair: other, count: this.#pairCounts.get(other)! });
    }
    return { left, right, id };
  }

  #commonest(): number | null {
    while (true) {
      const top = this.#queue.pop();
      if (top === null) return null;
      const count = this.#pairCounts.get(top.pair) ?? 0;
      if (count < this.#minCount) continue;
      if (count === top.count) return top.pair;
      this.#queue.push({ pair: top.pair, count });
    }
  }
}

/** Each occurrence of the pair becomes the id, from left to right. */
function replacePair(word: readonly number[], { left, right, id }: Merge): number[] {
  const merged: number[] = [];
  for (let i = 0; i < word.length; i++) {
    if (word[i] === left && word[i + 1] === right) {
      merged.push(id);
      i++;
    } else merged.push(word[i]);
  }
  return merged;
}

interface Candidate {
  readonly pair: number;
  readonly count: number;
}

function comesFirst(a: Candidate, b: Candidate): boolean {
  return a.count > b.count || (a.count === b.count && a.pair < b.pair);
}

/** A binary heap: the largest count on top, then the smallest pair. */
class PairQueue {
  readonly #heap: Candidate[] = [];

  push(candidate: Candidate): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(candidate);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!comesFirst(candidate, heap[parent])) break;
      heap[at] = heap[parent];
      at = parent;
    }
    heap[at] = candidate;
  }

  pop(): Candidate | null {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (top === undefined || last === undefined) return null;
    if (heap.length === 0) return top;
    let at = 0;
    for (let child = 1; child < heap.length; child = 2 * at + 1) {
      if (child + 1 < heap.length && comesFirst(heap[child + 1], heap[child])) child++;
      if (!comesFirst(heap[child], last)) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = last;
    return top;
  }
}
