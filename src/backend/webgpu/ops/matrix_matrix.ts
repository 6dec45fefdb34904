/**
 * Matrices times many rows. A workgroup computes a tile of the output: in turns it brings some columns
 * of its rows of the matrices, dequantised, and of its rows of `x` to workgroup memory, from which each
 * thread reads what its part of the tile needs. What the next turn needs is on its way meanwhile. Columns
 * come in the order of `products.ts`: the blocks of the first sum, then those of the second, ..
 */

import { BUILTINS, type Dispatch, WORKGROUP } from "../kernel.ts";
import { blocksOf, DECODE_COMMON } from "../weights/format.ts";
import {
  bindingsOf,
  bySlice,
  decoders,
  finishers,
  groupSlices,
  type Input,
  inputBinding,
  isWhole,
  laneBlocks,
  loadEight,
  paramsOf,
  ROW_LANES,
  type Slice,
  unrolled,
} from "./products.ts";
import {
  bestShape,
  groupThreads,
  ownVectors,
  sumVectors,
  tileRows,
  type TileShape,
  tileTokens,
} from "./tile_shapes.ts";

/** Dispatches for any number of rows. */
export function matrixMatrix(
  input: Input,
  slices: readonly Slice[],
  shape?: TileShape,
): Dispatch[] {
  return groupSlices(slices, 1).map((group) =>
    dispatchOf(input, group, shape ?? shapeOf(input, group))
  );
}

/** Sums of an output that have a block. */
export function lanesOf(cols: number): number {
  return Math.min(ROW_LANES, blocksOf(cols));
}

function shapeOf({ rows, cols, heads }: Input, slices: readonly Slice[]): TileShape {
  return bestShape({
    outputs: heads
      ? Array<number>(slices[0].rows / heads.outDim).fill(heads.outDim)
      : slices.map(({ rows }) => rows),
    tokens: rows,
    matrices: slices[0].matrices.length,
    lanes: lanesOf(cols),
  });
}

/** A tile in workgroup memory, as vectors of four rows (of matrices, or of `x`). */
interface Tile {
  /** First vector of a group's, in WGSL. */
  readonly start: string;
  /** Vectors of a column. */
  readonly vectors: number;
}

function dispatchOf(input: Input, slices: readonly Slice[], shape: TileShape): Dispatch {
  const { width, rows, cols, heads } = input;
  const { rowsEach, rowThreads, tokensEach, tokenThreads, groups, units } = shape;
  const matrices = slices[0].matrices.length;
  const threads = groupThreads(shape) * groups;
  const [tileHeight, tokens] = [tileRows(shape), tileTokens(shape)];
  /** Rows of the output that a tile has. */
  const size = tileHeight / matrices;
  const tokenTiles = Math.ceil(rows / tokens);
  const tilesOf = (rows: number) =>
    heads ? rows / heads.outDim * Math.ceil(heads.outDim / size) : Math.ceil(rows / size);
  let end = 0;
  const params = slices.map((slice, i) => paramsOf(slice, i, end += tilesOf(slice.rows)));

  const blocks = blocksOf(cols);
  const rounds = Math.ceil(lanesOf(cols) / groups);
  const turnsOfBlock = 4 / units;
  const turnsOfRound = laneBlocks(cols) * turnsOfBlock;
  const everywhere = blocks % ROW_LANES === 0;
  const poolOfGroup = units * 8 * (tileHeight + tokens) / 4;
  const weightTile = { start: `group * ${poolOfGroup}u`, vectors: tileHeight / 4 };
  const inputTile = {
    start: `group * ${poolOfGroup}u + ${units * 2 * tileHeight}u`,
    vectors: tokens / 4,
  };
  const weightTasks = tasksOf(tileHeight * units, shape);
  const inputTasks = tasksOf(tokens * units, shape);
  const sums = sumVectors(shape);
  const own = ownVectors(shape);
  const sumName = (h: number, n: number) => `sum${n * (rowsEach / 4) + h}`;

  const { weight } = slices[0].matrices[0];
  return {
    label: `matrixMatrix ${weight.type} ${slices.map(({ rows }) => rows).join("+")}x${cols}`,
    bindings: [...slices.flatMap(bindingsOf), inputBinding(input)],
    params: { rows, tokenTiles, ...Object.assign({}, ...params) },
    workgroups: end * tokenTiles,
    code: `${DECODE_COMMON}${decoders(slices)}${loadEight(isWhole(input), cols)}
${finishers(slices)}
var<workgroup> pool: array<vec4<f32>, ${poolOfGroup * groups}>;
${weightsOf(slices, size)}
${finishFour(slices)}
@compute @workgroup_size(${threads}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let firstToken = workgroup % params.tokenTiles * ${tokens}u;
  let tile = workgroup / params.tokenTiles;
  if (tile >= params.end${slices.length - 1}) { return; }
  var slice = 0u;
  var firstRow = 0u;
  var endRow = 0u;
  var base = 0u;
  ${bySlice(slices, (i) => place(i, { size, heads }))}
  let group = lane / ${groupThreads(shape)}u;
  let id = lane % ${groupThreads(shape)}u;
  ${threadPlace(shape)}
${unrolled(weightTasks.count, (k) => `  var w${k}: Eight;`)}
${unrolled(inputTasks.count, (k) => `  var v${k}: Eight;`)}
${unrolled(sums, (i) => `  var sum${i} = vec4<f32>();`)}
${unrolled(own, (i) => `  var total${i} = vec4<f32>();`)}
  for (var turn = 0u; turn <= ${rounds * turnsOfRound}u; turn++) {
    if (turn > 0u) {
      workgroupBarrier();
${unrolled(weightTasks.count, (k) => storeEight(`w${k}`, weightTile, { k, ...weightTasks }, units))}
${unrolled(inputTasks.count, (k) => storeEight(`v${k}`, inputTile, { k, ...inputTasks }, units))}
      workgroupBarrier();
    }
    if (turn < ${rounds * turnsOfRound}u) {
      let block = turn % ${turnsOfRound}u / ${turnsOfBlock}u * ${ROW_LANES}u +
        turn / ${turnsOfRound}u * ${groups}u + group;
      let unit = block * 4u + turn % ${turnsOfBlock}u * ${units}u;
${
      unrolled(weightTasks.count, (k) => {
        const task = `(id + ${k * weightTasks.threads}u)`;
        const load =
          `w${k} = weights(slice, firstRow, endRow, ${task} / ${units}u, unit + ${task} % ${units}u);`;
        return guarded(load, `w${k}`, { everywhere, blocks });
      })
    }
${
      unrolled(inputTasks.count, (k) => {
        const task = `(id + ${k * inputTasks.threads}u)`;
        const token = `min(firstToken + ${task} / ${units}u, params.rows - 1u)`;
        const load = `v${k} = x_8(${token} * ${width}u + base, unit + ${task} % ${units}u);`;
        return guarded(load, `v${k}`, { everywhere, blocks });
      })
    }
    }
    if (turn == 0u) { continue; }
    for (var u = 0u; u < ${units}u; u++) {
      for (var k = 0u; k < 8u; k++) {
        let column = u * 8u + k;
${
      unrolled(rowsEach / 4, (h) =>
        `        let a${h} = pool[${weightTile.start} + column * ${weightTile.vectors}u + ` +
        `${swizzled(`rowPlace + ${h * rowThreads}u`, "u", units)}];`)
    }
${
      unrolled(tokensEach / 4, (h) =>
        `        let b${h} = pool[${inputTile.start} + column * ${inputTile.vectors}u + ` +
        `${swizzled(`tokenPlace + ${h * tokenThreads}u`, "u", units)}];`)
    }
${
      unrolled(tokensEach, (n) =>
        unrolled(rowsEach / 4, (h) => {
          const value = `vec4<f32>(b${Math.floor(n / 4)}.${"xyzw"[n % 4]})`;
          return `        ${sumName(h, n)} = fma(a${h}, ${value}, ${sumName(h, n)});`;
        }))
    }
      }
    }
    if (turn % ${turnsOfRound}u == 0u) {
${
      groups === 1
        ? unrolled(sums, (i) => `      total${i} += sum${i};`)
        : exchange(shape, poolOfGroup)
    }
${unrolled(sums, (i) => `      sum${i} = vec4<f32>();`)}
    }
  }
${unrolled(own, (i) => finishOwn(i, { shape, matrices }))}
}`,
  };
}

interface Tasks {
  /** Loads of eight values that a thread makes in a turn. */
  readonly count: number;
  /** Threads that make one. */
  readonly threads: number;
}

function tasksOf(loads: number, shape: TileShape): Tasks {
  const threads = groupThreads(shape);
  return { count: Math.ceil(loads / threads), threads: Math.min(loads, threads) };
}

/** WGSL statements: where the tile lies in slice i. */
function place(i: number, { size, heads }: { size: number; heads: Input["heads"] }): string {
  const number = i === 0 ? "tile" : `(tile - params.end${i - 1})`;
  if (heads === undefined) {
    return `    slice = ${i}u;
    firstRow = ${number} * ${size}u;
    endRow = params.rows${i};`;
  }
  const { outDim, stride } = heads;
  const tiles = Math.ceil(outDim / size);
  return `    let head = ${number} / ${tiles}u;
    firstRow = head * ${outDim}u + ${number} % ${tiles}u * ${size}u;
    endRow = (head + 1u) * ${outDim}u;
    base = head * ${stride}u;`;
}

/**
 * WGSL statements: which of a group's parts of the tile is the thread's. Eight neighbouring threads (or
 * four) differ in tokens and the next ones in rows, so that 32 of them read few vectors at a time.
 */
function threadPlace({ rowThreads, tokenThreads }: TileShape): string {
  const across = Math.min(8, tokenThreads);
  const down = 32 / across;
  const wide = tokenThreads / across;
  if (rowThreads % down !== 0 || tokenThreads % across !== 0) {
    throw new RangeError(
      `cannot make a tile of ${rowThreads} x ${tokenThreads} threads: they must be multiples of ` +
        `${down} and ${across}`,
    );
  }
  return `let tokenPlace = id % ${across}u + id / 32u % ${wide}u * ${across}u;
  let rowPlace = id / ${across}u % ${down}u + id / ${32 * wide}u * ${down}u;`;
}

/** WGSL of `weights(slice, firstRow, endRow, row, unit)`, eight values of a row of the tile. */
function weightsOf(slices: readonly Slice[], size: number): string {
  return `
fn weights(slice: u32, firstRow: u32, endRow: u32, row: u32, unit: u32) -> Eight {
  let at = min(firstRow + row % ${size}u, endRow - 1u);
  switch (slice) {
${
    slices.map(({ matrices }, i) => {
      const read = (m: number) => `return w${i}${m}_8(at + params.offset${i}${m}, unit);`;
      const text = matrices.length === 1
        ? read(0)
        : `if (row < ${size}u) { ${read(0)} } ${read(1)}`;
      return `    ${i === slices.length - 1 ? "default" : `case ${i}u`}: { ${text} }`;
    }).join("\n")
  }
  }
}`;
}

/** WGSL of `load` where the group's block exists; zeros, which change no sum, elsewhere. */
function guarded(
  load: string,
  name: string,
  { everywhere, blocks }: { everywhere: boolean; blocks: number },
): string {
  if (everywhere) return `      ${load}`;
  return `      if (block < ${blocks}u) { ${load} } else { ${name} = Eight(); }`;
}

/** WGSL of a vector's place in its column, such that neighbouring threads write to different banks. */
function swizzled(vector: string, unit: string, units: number): string {
  return units === 1 ? `(${vector})` : `((${vector}) ^ (${unit} * ${8 / units}u))`;
}

/** WGSL statements that write the eight values of one of a thread's loads. */
function storeEight(
  name: string,
  { start, vectors }: Tile,
  { k, count, threads }: Tasks & { k: number },
  units: number,
): string {
  const task = `(id + ${k * threads}u)`;
  const vector = swizzled(`${task} / ${4 * units}u`, `${task} % ${units}u`, units);
  const writes = unrolled(8, (j) => {
    const value = `${name}.${j < 4 ? "a" : "b"}.${"xyzw"[j % 4]}`;
    return `        pool[at + ${j * vectors}u][row % 4u] = ${value};`;
  });
  return `      ${count === 1 ? `if (id < ${threads}u) ` : ""}{
        let row = ${task} / ${units}u;
        let at = ${start} + ${task} % ${units}u * ${8 * vectors}u + ${vector};
${writes}
      }`;
}

/**
 * WGSL statements that add the sums of all groups, in their order, to the totals of those threads whose
 * they are: group g has the g-th part of each thread's vectors.
 */
function exchange(shape: TileShape, poolOfGroup: number): string {
  const threads = groupThreads(shape) * shape.groups;
  const own = ownVectors(shape);
  let step = own;
  while (step * threads > poolOfGroup * shape.groups) step /= 2;
  return unrolled(sumVectors(shape) / step, (pass) => {
    const first = pass * step;
    return `      workgroupBarrier();
${unrolled(step, (c) => `      pool[${c * threads}u + lane] = sum${first + c};`)}
      workgroupBarrier();
      if (group == ${Math.floor(first / own)}u) {
        for (var g = 0u; g < ${shape.groups}u; g++) {
${
      unrolled(step, (c) =>
        `          total${(first + c) % own} += ` +
        `pool[${c * threads}u + g * ${groupThreads(shape)}u + id];`)
    }
        }
      }`;
  });
}

/** WGSL of `finish_4(slice, token, row, endRow, sums)`, or with two vectors for two matrices. */
function finishFour(slices: readonly Slice[]): string {
  const pair = slices[0].matrices.length === 2;
  return `
fn finish_4(slice: u32, token: u32, row: u32, endRow: u32, a: vec4<f32>${
    pair ? ", b: vec4<f32>" : ""
  }) {
  if (token >= params.rows) { return; }
  for (var j = 0u; j < 4u; j++) {
    if (row + j >= endRow) { return; }
    switch (slice) {
${
    slices.map((_, i) =>
      `      ${
        i === slices.length - 1 ? "default" : `case ${i}u`
      }: { finish${i}(token, row + j, a[j]${pair ? ", b[j]" : ""}); }`
    ).join("\n")
  }
    }
  }
}`;
}

/** WGSL statement that writes the output for one of a thread's own vectors; for two where these pair. */
function finishOwn(
  i: number,
  { shape, matrices }: { shape: TileShape; matrices: number },
): string {
  const { rowsEach, rowThreads, tokenThreads } = shape;
  const high = rowsEach / 4;
  if (matrices === 2 && i % 2 === 1) return "";
  const n = `(vector${i} / ${high}u)`;
  const token = `firstToken + tokenPlace * 4u + ${n} / 4u * ${4 * tokenThreads}u + ${n} % 4u`;
  const row = matrices === 2
    ? "firstRow + rowPlace * 4u"
    : `firstRow + rowPlace * 4u + vector${i} % ${high}u * ${4 * rowThreads}u`;
  return `  let vector${i} = ${shape.groups === 1 ? "" : `group * ${ownVectors(shape)}u + `}${i}u;
  finish_4(slice, ${token}, ${row}, endRow, total${i}${matrices === 2 ? `, total${i + 1}` : ""});`;
}
