/** Kernels that compute tiles of matrices times many rows, whatever their operands are made of. */

import { type Binding, BUILTINS, type Dispatch, WORKGROUP } from "../kernel.ts";
import { shapeRows, shapeThreads, shapeTokens } from "./block_shapes.ts";
import { type BlockLoop, type BlockTile, eachOwn, overTiles } from "./block_tiles.ts";
import {
  blockOrder,
  bySlice,
  finishers,
  finishFour,
  type Input,
  paramsOf,
  type Slice,
} from "./products.ts";

/** What a kernel is made of besides its loop's frame. */
export interface TileKernel {
  /** What it is called. */
  readonly name: string;
  readonly bindings: readonly Binding[];
  /** WGSL of functions and of the operands' workgroup memory. */
  readonly code: string;
  readonly loop: BlockLoop;
  /** Whether it has numbers of type f16. */
  readonly halves?: boolean;
}

/** WGSL of the row of its slice that row `row` of the tile is. */
export function sliceRow(row: string): string {
  return `min(firstRow + ${row}, endRow - 1u)`;
}

/** WGSL of the row of `x` that token `token` of the tile is. */
export function inputRow(token: string): string {
  return `min(firstToken + ${token}, params.rows - 1u)`;
}

/** The dispatch for all tiles of some slices; in its code `slice` is the number of the tile's slice. */
export function productTiles(
  { input: { rows, cols }, slices, tile }: {
    input: Input;
    slices: readonly Slice[];
    tile: BlockTile;
  },
  { name, bindings, code, loop, halves }: TileKernel,
): Dispatch {
  const { shape, matrices } = tile;
  const tokens = shapeTokens(shape);
  const size = shapeRows(shape) / matrices;
  const tokenTiles = Math.ceil(rows / tokens);
  let end = 0;
  const params = slices.map((slice, i) => paramsOf(slice, i, end += Math.ceil(slice.rows / size)));
  return {
    label: `${name} ${slices.map(({ rows }) => rows).join("+")}x${cols}`,
    bindings,
    params: { rows, tokenTiles, ...Object.assign({}, ...params) },
    workgroups: end * tokenTiles,
    halves,
    code: `${code}
${finishers(slices)}${finishFour(slices)}${blockOrder(cols)}
@compute @workgroup_size(${shapeThreads(shape)}) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let firstToken = workgroup % params.tokenTiles * ${tokens}u;
  let tile = workgroup / params.tokenTiles;
  if (tile >= params.end${slices.length - 1}) { return; }
  var slice = 0u;
  var firstRow = 0u;
  var endRow = 0u;
  ${
      bySlice(slices, (i) =>
        `    slice = ${i}u;
    firstRow = ${i === 0 ? "tile" : `(tile - params.end${i - 1})`} * ${size}u;
    endRow = params.rows${i};`)
    }
${overTiles(tile, loop)}
${
      eachOwn(tile, ({ token, row, values }) =>
        `  finish_4(slice, firstToken + ${token}, firstRow + ${row}, endRow, ${
          values.join(", ")
        });`)
    }
}`,
  };
}
