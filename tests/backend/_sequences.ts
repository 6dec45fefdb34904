/** Sequences of awkward lengths in pages out of order, and how steps of mixed tokens walk through them. */

import { type Backend, type BatchBuffers, PAGE_TOKENS } from "../../src/backend/backend.ts";
import { filled } from "./_harness.ts";

/** Sequences of these lengths: within a page, across one border, across two, on a border. */
export const LENGTHS = [3, 70, 141, PAGE_TOKENS];
/** Pages of each sequence, out of order and interleaved. */
const PAGE_TABLES = [[7, 1, 1], [4, 0, 1], [2, 6, 3], [5, 1, 1]];
export const PAGES = 8;
const TABLE_WIDTH = 3;

/** Where one token belongs. */
export interface Place {
  readonly sequence: number;
  readonly position: number;
}

/** The parameter buffers of a step with these tokens. */
export function batchOf(backend: Backend, tokens: readonly Place[]): BatchBuffers {
  return {
    positions: filled(backend, 1, Int32Array.from(tokens, (token) => token.position)),
    sequences: filled(backend, 1, Int32Array.from(tokens, (token) => token.sequence)),
    pageTables: filled(backend, TABLE_WIDTH, Int32Array.from(PAGE_TABLES.flat())),
  };
}

/** Cosines of a position, then as many sines. */
export function cosSinOf(position: number, rotaryDim: number): Float32Array {
  const angles = Array.from(
    { length: rotaryDim / 2 },
    (_, i) => position * 10000 ** (-2 * i / rotaryDim),
  );
  return Float32Array.from([...angles.map(Math.cos), ...angles.map(Math.sin)]);
}

export function joined(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/**
 * What `make` gives for a key, made once: backends that differ in threads or build are asked the same
 * and held against the same float64 numbers, whose evaluation takes longer than theirs.
 */
export function remembered<K, V>(make: (key: K) => V): (key: K) => V {
  const known = new Map<K, V>();
  return (key) => {
    if (!known.has(key)) known.set(key, make(key));
    return known.get(key)!;
  };
}

/** Positions at page borders and some between: the float64 evaluation of all takes seconds. */
export function isChecked({ position }: Place): boolean {
  const slot = position % PAGE_TOKENS;
  return position < 3 || slot < 2 || slot === PAGE_TOKENS - 1 || position % 9 === 0;
}

/** Tokens in steps of at most `chunk` rows each. */
export function chunksOf<T>(tokens: readonly T[], chunk: number): T[][] {
  const count = Math.ceil(tokens.length / chunk);
  return Array.from({ length: count }, (_, i) => tokens.slice(i * chunk, (i + 1) * chunk));
}

/** All sequences in steps of at most `chunk` rows each, taken in turn so that batches are mixed. */
export function mixedSteps<T>(sequences: readonly (readonly T[])[], chunk: number): T[][] {
  const steps: T[][] = [];
  for (let start = 0; start < Math.max(...LENGTHS); start += chunk) {
    steps.push(sequences.flatMap((tokens) => tokens.slice(start, start + chunk)));
  }
  return steps;
}
