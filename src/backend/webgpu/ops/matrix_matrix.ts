/**
 * Matrices times many rows. A workgroup computes a tile of the output: in turns it brings some columns
 * of its rows of the matrices, dequantised, and of its rows of `x` to workgroup memory, from which each
 * thread reads what its part of the tile needs. What the next turn needs is on its way meanwhile. Columns
 * come in the order of `products.ts`: the blocks of the first sum, then those of the second, ..
 */

import { BUILTINS, type Dispatch, unrolled, WORKGROUP } from "../kernel.ts";
import { blocksOf, DECODE_COMMON } from "../weights/format.ts";
import {
  bindingsOf,
  bySlice,
  bySliceNumber,
  decoders,
  finishers,
  finishFour,
  groupSlices,
  type Input,
  inputBinding,
  isWhole,
  lanesOf,
  loadEight,
  paramsOf,
  type Slice,
} from "./products.ts";
import {
  addSums,
  loadPlace,
  type Loads,
  loadsOf,
  multiplyTiles,
  ownPlace,
  storeLoad,
  threadPlace,
  tileMemory,
} from "./tile_memory.ts";
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
  { shape }: { shape?: TileShape } = {},
): Dispatch[] {
  return groupSlices(slices, { ...input, shared: 1 }).map((group) =>
    dispatchOf(input, group, shape ?? shapeOf(input, group))
  );
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

function dispatchOf(input: Input, slices: readonly Slice[], shape: TileShape): Dispatch {
  const { rows, cols, heads } = input;
  const { groups, units } = shape;
  const { matrices: { length: matrices, 0: { weight } } } = slices[0];
  const tokens = tileTokens(shape);
  /** Rows of the output that a tile has. */
  const size = tileRows(shape) / matrices;
  const tokenTiles = Math.ceil(rows / tokens);
  const tilesOf = (rows: number) =>
    heads ? rows / heads.outDim * Math.ceil(heads.outDim / size) : Math.ceil(rows / size);
  let end = 0;
  const params = slices.map((slice, i) => paramsOf(slice, i, end += tilesOf(slice.rows)));

  const blocks = blocksOf(cols);
  const lanes = lanesOf(cols);
  const turnsOfBlock = 4 / units;
  // Blocks that the first group has of the sums that are its own.
  let groupBlocks = 0;
  for (let first = 0; first < lanes && first < blocks; first += groups) {
    groupBlocks += Math.ceil((blocks - first) / lanes);
  }
  const turns = groupBlocks * turnsOfBlock;
  const weightLoads = loadsOf(tileRows(shape), shape);
  const inputLoads = loadsOf(tokens, shape);
  const load = (call: string) =>
    blocks % groups === 0
      ? `      ${call}`
      // Zeros change no sum.
      : `      if (block < ${blocks}u) { ${call} } else { ${call.split(" ")[0]} = Eight(); }`;

  return {
    label: `matrixMatrix ${weight.type} ${slices.map(({ rows }) => rows).join("+")}x${cols}`,
    bindings: [...slices.flatMap(bindingsOf), inputBinding(input)],
    params: { rows, tokenTiles, ...Object.assign({}, ...params) },
    workgroups: end * tokenTiles,
    code: `${DECODE_COMMON}${decoders(slices)}${loadEight(isWhole(input), cols)}
${finishers(slices)}${weightsOf(slices)}${finishFour(slices)}
${tileMemory(shape)}
@compute @workgroup_size(${groupThreads(shape) * groups}) fn main(${BUILTINS}) {
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
${unrolled(weightLoads.count, (k) => declareWeight(k, { loads: weightLoads, shape, size }))}
${unrolled(inputLoads.count, (k) => declareInput(k, { loads: inputLoads, shape, input }))}
${unrolled(sumVectors(shape), (i) => `  var sum${i} = vec4<f32>();`)}
${unrolled(ownVectors(shape), (i) => `  var total${i} = vec4<f32>();`)}
  // Number of the first group's sum, and of its block.
  var sumNumber = 0u;
  var first = 0u;
  for (var turn = 0u; turn <= ${turns}u; turn++) {
    if (turn > 0u) {
      workgroupBarrier();
${
      unrolled(weightLoads.count, (k) =>
        storeLoad(`w${k}`, k, { tile: "weightTile", loads: weightLoads, shape }))
    }
${
      unrolled(inputLoads.count, (k) =>
        storeLoad(`v${k}`, k, { tile: "inputTile", loads: inputLoads, shape }))
    }
      workgroupBarrier();
    }
    var complete = false;
    if (turn > 0u && turn % ${turnsOfBlock}u == 0u) {
      first += ${lanes}u;
      complete = first >= ${blocks}u;
      if (complete) {
        sumNumber += ${groups}u;
        first = sumNumber;
      }
    }
    if (turn < ${turns}u) {
      let block = first + group;
      let unit = block * 4u + turn % ${turnsOfBlock}u * ${units}u;
${
      unrolled(weightLoads.count, (k) =>
        load(`w${k} = weights(slice, second${k}, weightRow${k}, unit + weightUnit${k});`))
    }
${unrolled(inputLoads.count, (k) => load(`v${k} = x_8(inputBase${k}, unit + inputUnit${k});`))}
    }
    if (turn == 0u) { continue; }
${multiplyTiles(shape)}
    if (complete) {
${addSums(shape)}
${unrolled(sumVectors(shape), (i) => `      sum${i} = vec4<f32>();`)}
    }
  }
${unrolled(ownVectors(shape), (i) => finishOwn(i, { shape, matrices }))}
}`,
  };
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

/** WGSL statements: what load k of a thread brings of the matrices. */
function declareWeight(
  k: number,
  { loads, shape, size }: { loads: Loads; shape: TileShape; size: number },
): string {
  const { row, unit } = loadPlace(k, loads, shape);
  return `  var w${k}: Eight;
  let second${k} = ${row} >= ${size}u;
  let weightRow${k} = min(firstRow + ${row} % ${size}u, endRow - 1u);
  let weightUnit${k} = ${unit};`;
}

/** WGSL statements: what load k of a thread brings of `x`. */
function declareInput(
  k: number,
  { loads, shape, input }: { loads: Loads; shape: TileShape; input: Input },
): string {
  const { row, unit } = loadPlace(k, loads, shape);
  return `  var v${k}: Eight;
  let inputBase${k} = min(firstToken + ${row}, params.rows - 1u) * ${input.width}u + base;
  let inputUnit${k} = ${unit};`;
}

/** WGSL of `weights(slice, second, row, unit)`, eight values of a row of the first matrix or the second. */
function weightsOf(slices: readonly Slice[]): string {
  return `
fn weights(slice: u32, second: bool, row: u32, unit: u32) -> Eight {
  ${
    bySliceNumber(slices, (i) => {
      const read = (m: number) => `return w${i}${m}_8(row + params.offset${i}${m}, unit);`;
      return slices[i].matrices.length === 1 ? read(0) : `if (second) { ${read(1)} } ${read(0)}`;
    })
  }
}`;
}

/** WGSL statement that writes what one of a thread's own vectors is, or together with the next one. */
function finishOwn(
  i: number,
  { shape, matrices }: { shape: TileShape; matrices: number },
): string {
  if (i % matrices !== 0) return "";
  const { token, row } = ownPlace(i, { shape, matrices });
  const values = matrices === 2 ? `total${i}, total${i + 1}` : `total${i}`;
  return `  finish_4(slice, firstToken + ${token}, firstRow + ${row}, endRow, ${values});`;
}
