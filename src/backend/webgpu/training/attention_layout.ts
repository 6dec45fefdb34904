/** What tiles of attention's backward pass are made of: queries and keys, sums, and who has which. */

import type { Buffer } from "../../backend.ts";
import { sameVectors, type Vectors } from "./vectors.ts";

/** Queries or keys of a workgroup, and keys or queries that go by at a time. */
export const MINE = 32;
export const OTHERS = 64;
/** Threads that share four of the workgroup's own. */
export const COLUMNS = 16;
export const QUADS = MINE / 4;
export const THREADS = QUADS * COLUMNS;
/** Others of a thread. */
export const EACH = OTHERS / COLUMNS;
/** Vectors of four columns that lie in workgroup memory at a time, and from one row of them to the next. */
export const STAGED = 8;
export const STRIDE = STAGED + 1;
/** Workgroup memory, in vectors of four: staged columns; later ds, p and largest scores by column. */
export const ROOM = 2 * OTHERS * QUADS;
export const SECOND = OTHERS * QUADS;
/** Others whose vectors a thread has under way at once. */
export const AHEAD = 4;
/** A score that no key has. */
export const LOWEST = "-3e38";

/** Vectors whose products add up: to scores (of queries and keys), or to dp (of gradients and values). */
export interface Pair {
  readonly dim: number;
  readonly query: Vectors;
  readonly key: Vectors;
}

export interface Attention {
  /** Parts of the scores. */
  readonly parts: readonly Pair[];
  /** The gradient of the output, and the values. */
  readonly value: Pair;
  readonly out: Vectors;
  /** Of each part: where gradients of queries go. */
  readonly queryGradients: readonly Vectors[];
  /** Of each part, then of the value: where those of keys go; what has one place is added up there. */
  readonly keyGradients: readonly Vectors[];
  readonly heads: number;
  readonly kvHeads: number;
  readonly scale: number;
  readonly window: number | undefined;
  readonly positions: Buffer;
  readonly rows: number;
}

/** A sum of the others' vectors, each times its ds or its p. */
export interface Sum {
  readonly name: string;
  readonly pair: Pair;
  readonly factor: "slope" | "weight";
}

/** Sums that go to one place. */
export interface Out {
  readonly to: Vectors;
  readonly dim: number;
  readonly sums: readonly Sum[];
}

/** Vectors of a kernel by their names: `q0`, `k0`, .. of scores, `q_value`, `k_value`. */
export function pairsOf({ parts, value }: Attention): { name: string; pair: Pair }[] {
  return [
    ...parts.map((pair, i) => ({ name: String(i), pair })),
    { name: "_value", pair: value },
  ];
}

/** What is added up, by where it goes. */
export function outsOf(attention: Attention, of: "queries" | "keys"): Out[] {
  const pairs = pairsOf(attention);
  const all = of === "queries" ? pairs.slice(0, -1) : pairs;
  const places = of === "queries" ? attention.queryGradients : attention.keyGradients;
  const outs: { to: Vectors; dim: number; sums: Sum[] }[] = [];
  for (const [i, { name, pair }] of all.entries()) {
    const factor = name === "_value" ? "weight" : "slope";
    const same = outs.find(({ to }) => sameVectors(to, places[i]));
    if (same !== undefined) same.sums.push({ name, pair, factor });
    else outs.push({ to: places[i], dim: pair.dim, sums: [{ name, pair, factor }] });
  }
  return outs;
}

export const fours = (dim: number) => Math.ceil(dim / 4);

/** Rounds in which the threads of four have all columns. */
export const roundsOf = (dim: number) => Math.ceil(fours(dim) / COLUMNS);
