/**
 * A tile of a product of two matrices, of float32 or halves, for all products of the backward pass. Tiles of
 * both lie in workgroup memory as float32, and what the next turn needs is on its way meanwhile; a thread
 * keeps four rows and columns, or eight, of the result. A result's products are added one after the other
 * in ascending order of `k`, whatever the size of the tile.
 */

import { type Dispatch, type Parameter, unrolled } from "../kernel.ts";
import { type Access, type Accesses, kernel } from "./arrays.ts";
import { halfAt } from "./halves.ts";

/** Rows and columns of a tile. */
export type Side = 32 | 64 | 128;

const SIDES: readonly Side[] = [128, 64, 32];
/** Cores of the GPU that is aimed at. */
const CORES = 132;
/**
 * Of each side: tiles that a core has room for, what a result takes beside others, and the part of a core
 * that one tile alone can use.
 */
const SPEEDS: Readonly<Record<Side, { room: number; cost: number; alone: number }>> = {
  128: { room: 2, cost: 1, alone: 0.6 },
  64: { room: 8, cost: 1.15, alone: 0.2 },
  32: { room: 16, cost: 2, alone: 0.15 },
};
/** Values of `k` in workgroup memory at a time. */
const DEPTH = 16;

/** The side with which `count` results of this shape should be done soonest. */
export function sideOf(
  { rows, cols, count = 1 }: { rows: number; cols: number; count?: number },
): Side {
  const time = (side: Side) => {
    const { cost, alone } = SPEEDS[side];
    const each = Math.ceil(count * tilesOf(side, { rows, cols }) / CORES);
    return Math.max(each, 1 / alone) * side * side * cost;
  };
  return SIDES.reduce((best, side) => time(side) < time(best) ? side : best);
}

/** Tiles that are enough to keep the GPU busy. */
export function enoughTiles(side: Side): number {
  return CORES * SPEEDS[side].room;
}

export function tilesOf(side: Side, { rows, cols }: { rows: number; cols: number }): number {
  return Math.ceil(rows / side) * Math.ceil(cols / side);
}

type Names<Name extends string> = Readonly<Record<Name, string>>;

/** A factor of the product, rows of neighbours in memory. */
export interface Operand<Name extends string> {
  readonly array: Name;
  /** Whether neighbours are along `k`, or along the tile's side. */
  readonly along: "k" | "side";
  /** Whether its numbers are halves, two in a word; float32 by default. */
  readonly halves?: boolean;
  /** WGSL of where the row of this index, of the other axis, begins. */
  readonly base: (names: Names<Name>, index: string) => string;
}

/** Where a sum goes. */
interface Place<Name extends string> {
  readonly names: Names<Name>;
  /** What is there. */
  readonly old: string;
  readonly type: "f32" | "vec4<f32>";
  readonly n: string;
}

/** `result(m, n) = sum over k of a(m, k) b(k, n)` */
export interface Product<Name extends string> {
  readonly label: string;
  readonly side: Side;
  readonly arrays: Accesses<Name>;
  readonly params: Readonly<Record<string, Parameter>>;
  readonly workgroups: number;
  /**
   * Statements that declare `m0`, `n0` (the tile's first row and column), `m_end`, `n_end`, `k0` and `k_end`,
   * or return, from `workgroup`; alike for all threads.
   */
  readonly place: (names: Names<Name>) => string;
  readonly a: Operand<NoInfer<Name>>;
  readonly b: Operand<NoInfer<Name>>;
  /** Rows of all three begin at multiples of four, and are as long along their neighbours. */
  readonly whole: boolean;
  readonly out: {
    readonly array: NoInfer<Name>;
    /** WGSL of where `m` and `n` lie. */
    readonly place: (names: Names<Name>, m: string, n: string) => string;
    /** WGSL of what is written for a sum, f32 or, where all is whole, vec4<f32>. */
    readonly value: (sum: string, to: Place<Name>) => string;
  };
}

const LETTERS = "xyzw";

/** WGSL of four halves in two words. */
const FOUR_HALVES = `
fn four_halves(words: vec2<u32>) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}`;

function typeOf({ halves, whole }: { halves: boolean; whole: boolean }): Access["type"] {
  if (halves) return whole ? "vec2<u32>" : "u32";
  return whole ? "vec4<f32>" : "f32";
}

export function product<Name extends string>(options: Product<Name>): Dispatch {
  const { side, place, a, b, out, whole, arrays: given } = options;
  const quads = side === 32 ? 1 : 2;
  const perSide = side / 4 / quads;
  const threads = perSide * perSide;
  const across = perSide / 8;
  const arrays: Record<Name, Access> = { ...given };
  for (const { array, halves = false } of [a, b, { array: out.array }]) {
    arrays[array] = { ...arrays[array], type: typeOf({ halves, whole }) };
  }
  const loads = side / 4 * DEPTH / threads;
  const results = (text: (r: number, q: number) => string) =>
    unrolled(4 * quads, (r) => unrolled(quads, (q) => text(r, q)));
  const operands = [
    { name: "a", of: a, first: "m0", end: "m_end" },
    { name: "b", of: b, first: "n0", end: "n_end" },
  ];
  const load = (names: Names<Name>, k: string) =>
    operands.map((operand) =>
      unrolled(loads, (i) => loadOne(names, { ...operand, whole, side, threads, i, k }))
    ).join("\n");
  return kernel({
    ...options,
    arrays,
    threads,
    declare: () =>
      `${a.halves || b.halves ? FOUR_HALVES : ""}
// One vector more a row, so that threads that write along k touch different banks.
var<workgroup> tile_a: array<array<vec4<f32>, ${side / 4 + 1}>, ${DEPTH}>;
var<workgroup> tile_b: array<array<vec4<f32>, ${side / 4 + 1}>, ${DEPTH}>;`,
    body: (names) => `
${place(names)}
  // Eight neighbouring threads differ in columns, the next ones in rows.
  let mine_n = lane % 8u + lane / 32u % ${across}u * 8u;
  let mine_m = lane / 8u % 4u + lane / ${32 * across}u * 4u;
${results((r, q) => `  var sum${r}_${q} = vec4<f32>();`)}
${
      operands.map((operand) =>
        unrolled(loads, (i) => prepareOne(names, { ...operand, side, threads, i }))
      ).join("\n")
    }
${load(names, "k0")}
  for (var k = k0; k < k_end; k += ${DEPTH}u) {
${
      operands.map(({ name, of }) =>
        unrolled(loads, (i) => storeOne({ name, along: of.along, side, threads, i }))
      ).join("\n")
    }
    workgroupBarrier();
    if (k + ${DEPTH}u < k_end) {
${load(names, `(k + ${DEPTH}u)`)}
    }
    for (var deep = 0u; deep < ${DEPTH}u; deep++) {
${
      unrolled(quads, (q) =>
        `      let a${q} = tile_a[deep][mine_m + ${q * perSide}u];
      let b${q} = tile_b[deep][mine_n + ${q * perSide}u];`)
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
          unrolled(
            quads,
            (q) =>
              `      {
        let n = n0 + (mine_n + ${q * perSide}u) * 4u;
${whole ? storeFour(names, out, `sum${r}_${q}`) : storeEach(names, out, `sum${r}_${q}`)}
      }`,
          )
        }
    }
  }`)
    }`,
  });
}

interface Load {
  readonly name: string;
  readonly side: Side;
  readonly threads: number;
  /** Which of a thread's loads. */
  readonly i: number;
}

/** WGSL of the row and the vector of four of its values that load i of a thread brings. */
function placeOfLoad(along: "k" | "side", { side, threads, i }: Omit<Load, "name">) {
  const each = along === "k" ? DEPTH / 4 : side / 4;
  const item = `(lane + ${i * threads}u)`;
  return { row: `${item} / ${each}u`, four: `${item} % ${each}u` };
}

/** WGSL, before the loop: a variable for load i, and where its row begins where that is the same in all turns. */
function prepareOne<Name extends string>(
  names: Names<Name>,
  { of, first, end, ...load }: Load & { of: Operand<Name>; first: string; end: string },
): string {
  const { name, i } = load;
  const declared = `  var next_${name}${i} = vec4<f32>();`;
  if (of.along === "side") return declared;
  const { row } = placeOfLoad("k", load);
  return `${declared}
  let row_${name}${i} = ${of.base(names, `min(${first} + ${row}, ${end} - 1u)`)};`;
}

/** WGSL that asks for what load i brings from `k` on. Rows and columns behind the end may be any that are there. */
function loadOne<Name extends string>(
  names: Names<Name>,
  { of, first, end, whole, k, ...load }: Load & {
    of: Operand<Name>;
    first: string;
    end: string;
    whole: boolean;
    k: string;
  },
): string {
  const { name, i } = load;
  const { row, four: column } = placeOfLoad(of.along, load);
  const array = names[of.array];
  const isAlongK = of.along === "k";
  const most = isAlongK ? "k_end" : end;
  const four = `${array}[(base + at) / 4u]`;
  const one = (place: string) => of.halves ? halfAt(array, place) : `${array}[${place}]`;
  const read = whole
    ? `next_${name}${i} = ${of.halves ? `four_halves(${four})` : four};`
    : `next_${name}${i} = vec4<f32>();
${
      unrolled(4, (j) =>
        `        if (at + ${j}u < ${most}) { next_${name}${i}.${LETTERS[j]} = ${
          one(`base + at + ${j}u`)
        }; }`)
    }`;
  return isAlongK
    ? `      {
        let at = ${k} + ${column} * 4u;
        let base = row_${name}${i};
        if (at < k_end) { ${read} } else { next_${name}${i} = vec4<f32>(); }
      }`
    : `      {
        let deep = ${k} + ${row};
        let at = ${
      whole ? `min(${first} + ${column} * 4u, ${end} - 4u)` : `${first} + ${column} * 4u`
    };
        if (deep < k_end) {
          let base = ${of.base(names, "deep")};
          ${read}
        } else { next_${name}${i} = vec4<f32>(); }
      }`;
}

/** WGSL that brings load i to workgroup memory. */
function storeOne({ along, ...load }: Load & { along: "k" | "side" }): string {
  const { name, i } = load;
  const { row, four } = placeOfLoad(along, load);
  if (along === "side") return `    tile_${name}[${row}][${four}] = next_${name}${i};`;
  return `    {
      let row = ${row};
      let deep = ${four} * 4u;
${
    unrolled(4, (j) =>
      `      tile_${name}[deep + ${j}u][row / 4u][row % 4u] = next_${name}${i}.${LETTERS[j]};`)
  }
    }`;
}

function storeFour<Name extends string>(
  names: Names<Name>,
  { array, place, value }: Product<Name>["out"],
  sum: string,
): string {
  const old = `${names[array]}[place]`;
  return `        if (n < n_end) {
          let place = (${place(names, "m", "n")}) / 4u;
          ${old} = ${value(sum, { names, old, type: "vec4<f32>", n: "n" })};
        }`;
}

function storeEach<Name extends string>(
  names: Names<Name>,
  { array, place, value }: Product<Name>["out"],
  sum: string,
): string {
  const old = `${names[array]}[place]`;
  return unrolled(4, (c) => {
    const n = `(n + ${c}u)`;
    return `        if (${n} < n_end) {
          let place = ${place(names, "m", n)};
          ${old} = ${value(`${sum}.${LETTERS[c]}`, { names, old, type: "f32", n })};
        }`;
  });
}
