/**
 * Tiles in workgroup memory, in WGSL. Each group of threads has columns of rows of matrices in
 * `weightTile`, and the same columns of rows of `x` in `inputTile`: `[group][column / 4][column % 4][row / 4]`,
 * vectors of four rows. Indices that are known when a kernel is compiled have dimensions of their own,
 * since every other one is checked against its limit.
 */

import { unrolled } from "../kernel.ts";
import {} from "./products.ts";
import {
  groupThreads,
  ownVectors,
  sumVectors,
  tileRows,
  type TileShape,
  tileTokens,
} from "./tile_shapes.ts";

/** How a group brings eight columns at a time of the rows of a tile to workgroup memory. */
export interface Loads {
  /** Of each thread in a turn. */
  readonly count: number;
  /** Threads that take part. */
  readonly threads: number;
}

export function loadsOf(rows: number, shape: TileShape): Loads {
  const loads = rows * shape.units;
  const threads = Math.min(loads, groupThreads(shape));
  return { count: Math.ceil(loads / threads), threads };
}

/** WGSL of the row of the tile and of the unit of the turn that load k of a thread brings. */
export function loadPlace(k: number, { threads }: Loads, { units }: TileShape) {
  const load = `(id + ${k * threads}u)`;
  return { row: `(${load} / ${units}u)`, unit: `${load} % ${units}u` };
}

export function tileMemory(shape: TileShape): string {
  const { groups, units } = shape;
  const tile = (name: string, rows: number) => {
    const columns = `array<array<array<vec4<f32>, ${rows / 4}>, 4>, ${2 * units}>`;
    return `var<workgroup> ${name}: array<${columns}, ${groups}>;`;
  };
  return `${tile("weightTile", tileRows(shape))}
${tile("inputTile", tileTokens(shape))}`;
}

/**
 * WGSL statements: which of a group's parts of the tile is the thread's. Eight neighbouring threads (or
 * four) differ in tokens and the next ones in rows, so that 32 of them read few vectors at a time.
 */
export function threadPlace({ tokenThreads }: TileShape): string {
  const across = Math.min(8, tokenThreads);
  const down = 32 / across;
  const wide = tokenThreads / across;
  return `let tokenPlace = id % ${across}u + id / 32u % ${wide}u * ${across}u;
  let rowPlace = id / ${across}u % ${down}u + id / ${32 * wide}u * ${down}u;`;
}

/** WGSL of a vector's place among those of its column, which lets neighbouring threads write to different banks. */
function placed(vector: string, unit: string, { units }: TileShape): string {
  return units === 1 ? vector : `(${vector}) ^ (${unit} * ${8 / units}u)`;
}

/** WGSL statements that write what load k of a thread has brought, `name: Eight`. */
export function storeLoad(
  name: string,
  k: number,
  { tile, loads, shape }: { tile: "weightTile" | "inputTile"; loads: Loads; shape: TileShape },
): string {
  const { row, unit } = loadPlace(k, loads, shape);
  const some = loads.threads < groupThreads(shape);
  return `      ${some ? `if (id < ${loads.threads}u) ` : ""}{
        let row = ${row};
        let unit = ${unit};
        let place = ${placed("row / 4u", "unit", shape)};
${
    unrolled(8, (j) => {
      const quad = `unit * 2u${j < 4 ? "" : " + 1u"}`;
      const value = `${name}.${j < 4 ? "a" : "b"}.${"xyzw"[j % 4]}`;
      return `        ${tile}[group][${quad}][${j % 4}][place][row % 4u] = ${value};`;
    })
  }
      }`;
}

/** WGSL statements that add the products of all columns in workgroup memory to a thread's sums. */
export function multiplyTiles(shape: TileShape): string {
  const { rowsEach, tokensEach, rowThreads, tokenThreads, units } = shape;
  const high = rowsEach / 4;
  const wide = tokensEach / 4;
  return `    for (var quad = 0u; quad < ${2 * units}u; quad++) {
${
    unrolled(high, (h) =>
      `      let row${h} = ${placed(`rowPlace + ${h * rowThreads}u`, "(quad / 2u)", shape)};`)
  }
${
    unrolled(wide, (h) =>
      `      let token${h} = ${placed(`tokenPlace + ${h * tokenThreads}u`, "(quad / 2u)", shape)};`)
  }
${
    unrolled(4, (c) =>
      `      {
${unrolled(high, (h) => `        let a${h} = weightTile[group][quad][${c}][row${h}];`)}
${unrolled(wide, (h) => `        let b${h} = inputTile[group][quad][${c}][token${h}];`)}
${
        unrolled(tokensEach, (n) =>
          unrolled(high, (h) => {
            const sum = `sum${n * high + h}`;
            const value = `vec4<f32>(b${Math.floor(n / 4)}.${"xyzw"[n % 4]})`;
            return `        ${sum} = fma(a${h}, ${value}, ${sum});`;
          }))
      }
      }`)
  }
    }`;
}

/**
 * WGSL statements that add a thread's sums to its totals; where there are several groups those of all of
 * them, in their order, to the totals of those threads whose they are: group g has the g-th part of the
 * vectors. The sums pass through `weightTile`.
 */
export function addSums(shape: TileShape): string {
  const { groups, units } = shape;
  const sums = sumVectors(shape);
  if (groups === 1) return unrolled(sums, (i) => `      total${i} += sum${i};`);
  const threads = groupThreads(shape);
  const own = ownVectors(shape);
  const vectors = tileRows(shape) / 4;
  let step = own;
  while (step * threads > 8 * units * vectors) step /= 2;
  const at = (c: number) =>
    `[place${c} / ${4 * vectors}u][place${c} / ${vectors}u % 4u][place${c} % ${vectors}u]`;
  return `${unrolled(step, (c) => `      let place${c} = id + ${c * threads}u;`)}
${
    unrolled(sums / step, (pass) => {
      const first = pass * step;
      return `      workgroupBarrier();
${unrolled(step, (c) => `      weightTile[group]${at(c)} = sum${first + c};`)}
      workgroupBarrier();
      if (group == ${Math.floor(first / own)}u) {
        for (var g = 0u; g < ${groups}u; g++) {
${unrolled(step, (c) => `          total${(first + c) % own} += weightTile[g]${at(c)};`)}
        }
      }`;
    })
  }`;
}

/**
 * WGSL of the token and the first of the four rows of the tile that own vector i of a thread is for; the
 * rows of the first matrix where there are two, and then every second vector is for the other one.
 */
export function ownPlace(
  i: number,
  { shape, matrices }: { shape: TileShape; matrices: number },
): { token: string; row: string } {
  const { rowsEach, rowThreads, tokenThreads, groups } = shape;
  const high = rowsEach / 4;
  const vector = groups === 1 ? `${i}u` : `(group * ${ownVectors(shape)}u + ${i}u)`;
  const n = `(${vector} / ${high}u)`;
  return {
    token: `tokenPlace * 4u + ${n} / 4u * ${4 * tokenThreads}u + ${n} % 4u`,
    row: `rowPlace * 4u${matrices === 2 ? "" : ` + ${vector} % ${high}u * ${4 * rowThreads}u`}`,
  };
}
