/**
 * A tile of a product of two float32 matrices, for all products of the backward pass. Tiles of both lie in
 * workgroup memory, and a thread keeps four rows and columns, or eight, of the result. A result's products
 * are added one after the other in ascending order of `k`, whatever the size of the tile.
 */

import type { Parameter } from "../kernel.ts";
import { unrolled } from "../kernel.ts";
import type { Dispatch } from "../kernel.ts";
import { type Accesses, kernel } from "./arrays.ts";

/** Rows and columns of a tile. */
export type Side = 32 | 64 | 128;

/** Workgroups below which smaller tiles do better: large GPUs have some 130 cores. */
const ENOUGH = 256;

/** The largest tile that still makes enough workgroups of results of this shape. */
export function sideOf(
  { rows, cols, count = 1 }: { rows: number; cols: number; count?: number },
): Side {
  const enough = (side: Side) => count * tilesOf(side, { rows, cols }) >= ENOUGH;
  return enough(128) ? 128 : enough(64) ? 64 : 32;
}

export function tilesOf(side: Side, { rows, cols }: { rows: number; cols: number }): number {
  return Math.ceil(rows / side) * Math.ceil(cols / side);
}

type Names<Name extends string> = Readonly<Record<Name, string>>;

/** `result(m, n) = sum over k of a(m, k) b(k, n)`, WGSL each. */
export interface Product<Name extends string> {
  readonly label: string;
  readonly side: Side;
  readonly arrays: Accesses<Name>;
  readonly params: Readonly<Record<string, Parameter>>;
  readonly workgroups: number;
  readonly declare?: (names: Names<Name>) => string;
  /**
   * Statements that declare `m0`, `n0` (the tile's first row and column), `m_end`, `n_end`, `k0` and `k_end`,
   * or return, from `workgroup`; alike for all threads.
   */
  readonly place: (names: Names<Name>) => string;
  readonly a: (names: Names<Name>, m: string, k: string) => string;
  readonly b: (names: Names<Name>, k: string, n: string) => string;
  /** Along which of its indices neighbours in memory lie. */
  readonly aAlong: "m" | "k";
  readonly bAlong: "n" | "k";
  readonly store: (names: Names<Name>, m: string, n: string, sum: string) => string;
}

const LETTERS = "xyzw";

export function product<Name extends string>(options: Product<Name>): Dispatch {
  const { side, place, a, b, aAlong, bAlong, store, declare } = options;
  const quads = side === 128 ? 2 : 1;
  const perSide = side / 4 / quads;
  const threads = perSide * perSide;
  const depth = side === 128 ? 8 : 16;
  // One vector more a row, so that threads that write along k touch different banks.
  const row = side / 4 + 1;
  const vectors = depth * side / 4;
  /** Brings a tile of `depth` by `side` values to workgroup memory, four of the side at a time. */
  const load = (
    into: string,
    { along, first, end, value }: {
      along: boolean;
      first: string;
      end: string;
      value: (at: string, k: string) => string;
    },
  ) => `
    for (var i = lane; i < ${vectors}u; i += ${threads}u) {
      let deep = ${along ? `i % ${depth}u` : `i / ${side / 4}u`};
      let quad = ${along ? `i / ${depth}u` : `i % ${side / 4}u`};
      let at = ${first} + quad * 4u;
      let kk = k + deep;
      var four = vec4<f32>();
      if (kk < k_end) {
${
    unrolled(4, (j) =>
      `        if (at + ${j}u < ${end}) { four.${LETTERS[j]} = ${value(`(at + ${j}u)`, "kk")}; }`)
  }
      }
      ${into}[deep * ${row}u + quad] = four;
    }`;
  const results = (text: (r: number, q: number) => string) =>
    unrolled(4 * quads, (r) => unrolled(quads, (q) => text(r, q)));
  return kernel({
    ...options,
    threads,
    declare: (names) => `
var<workgroup> tile_a: array<vec4<f32>, ${depth * row}>;
var<workgroup> tile_b: array<vec4<f32>, ${depth * row}>;
${declare?.(names) ?? ""}`,
    body: (names) => `
${place(names)}
  let mine_m = lane / ${perSide}u;
  let mine_n = lane % ${perSide}u;
${results((r, q) => `  var sum${r}_${q} = vec4<f32>();`)}
  for (var k = k0; k < k_end; k += ${depth}u) {
${
      load("tile_a", {
        along: aAlong === "k",
        first: "m0",
        end: "m_end",
        value: (m, k) => a(names, m, k),
      })
    }
${
      load("tile_b", {
        along: bAlong === "k",
        first: "n0",
        end: "n_end",
        value: (n, k) => b(names, k, n),
      })
    }
    workgroupBarrier();
    for (var deep = 0u; deep < ${depth}u; deep++) {
${
      unrolled(quads, (q) =>
        `      let a${q} = tile_a[deep * ${row}u + mine_m + ${q * perSide}u];
      let b${q} = tile_b[deep * ${row}u + mine_n + ${q * perSide}u];`)
    }
${
      results((r, q) =>
        `      sum${r}_${q} = fma(vec4<f32>(a${r >> 2}.${LETTERS[r & 3]}), b${q}, sum${r}_${q});`
      )
    }
    }
    workgroupBarrier();
  }
${
      unrolled(4 * quads, (r) =>
        `  {
    let m = m0 + (mine_m + ${(r >> 2) * perSide}u) * 4u + ${r & 3}u;
    if (m < m_end) {
${
          unrolled(quads, (q) =>
            unrolled(4, (c) =>
              `      {
        let n = n0 + (mine_n + ${q * perSide}u) * 4u + ${c}u;
        if (n < n_end) { ${store(names, "m", "n", `sum${r}_${q}.${LETTERS[c]}`)} }
      }`))
        }
    }
  }`)
    }`,
  });
}
