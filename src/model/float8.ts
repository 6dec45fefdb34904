/**
 * FP8 checkpoints as DeepSeek-V3 introduced them (its technical report, section 3.3): matrices of
 * e4m3 bytes, and beside each a matrix of float32 factors, one for a tile of 128 x 128 values. Tiles
 * at the ends may be partial.
 */

import type { TensorData } from "../backend/backend.ts";
import { e4m3ToF32 } from "../quant/float8.ts";
import { TENSOR_TYPES } from "../quant/types.ts";
import { rowwise } from "./tensor_data.ts";

/** Rows and columns that share a factor. */
export interface TileSize {
  readonly rows: number;
  readonly cols: number;
}

/** What the name of a matrix of factors has after the name of its weight. */
export const SCALE_SUFFIX = "_scale_inv";

/** Values of one e4m3 block of ours. */
const BLOCK = TENSOR_TYPES.F8_E4M3.blockValues;
const BLOCK_BYTES = TENSOR_TYPES.F8_E4M3.blockBytes;

/** The extents of the matrix of factors. */
export function scaleShape(shape: readonly number[], tile: TileSize): [number, number] {
  return [Math.ceil(shape[0] / tile.rows), Math.ceil(shape[1] / tile.cols)];
}

/**
 * The matrix with its factors: our F8_E4M3, each block of 32 with its factor, where the columns allow
 * it, and F32 otherwise. `bytes` reads the e4m3 bytes, `scales` the factors [tile rows, tile cols].
 */
export function float8Tensor(
  shape: { name: string; rows: number; cols: number },
  parts: {
    bytes: (offset: number, into: Uint8Array) => Promise<void>;
    scales: TensorData;
    tile: TileSize;
  },
): TensorData {
  const { rows, cols } = shape;
  const { bytes, scales, tile } = parts;
  const scaleCols = Math.ceil(cols / tile.cols);
  const blocks = cols % BLOCK === 0 && tile.cols % BLOCK === 0;
  const fillRow = blocks ? fillBlocks : fillFloats;
  // A row of tiles at a time: its factors are one row of the matrix of factors.
  return rowwise({ ...shape, type: blocks ? "F8_E4M3" : "F32" }, {
    rowsAtOnce: tile.rows,
    async fill(row, out) {
      const count = Math.min(tile.rows, rows - row);
      const from = new Uint8Array(count * cols);
      await bytes(row * cols, from);
      const factorBytes = new Uint8Array(scaleCols * 4);
      await scales.read((row / tile.rows) * factorBytes.length, factorBytes);
      const factors = new DataView(factorBytes.buffer);
      const into = new DataView(out.buffer, out.byteOffset, out.byteLength);
      const rowLength = out.length / count;
      for (let r = 0; r < count; r++) {
        const values = from.subarray(r * cols, (r + 1) * cols);
        fillRow(values, { factors, tileCols: tile.cols, into, at: r * rowLength });
      }
    },
  });
}

interface RowTarget {
  /** Little-endian float32, one a tile. */
  readonly factors: DataView;
  readonly tileCols: number;
  readonly into: DataView;
  readonly at: number;
}

function fillBlocks(values: Uint8Array, { factors, tileCols, into, at }: RowTarget): void {
  for (let col = 0; col < values.length; col += BLOCK) {
    const block = at + (col / BLOCK) * BLOCK_BYTES;
    const factor = factors.getFloat32(Math.floor(col / tileCols) * 4, true);
    into.setFloat32(block, factor, true);
    for (let i = 0; i < BLOCK; i++) into.setUint8(block + 4 + i, values[col + i]);
  }
}

function fillFloats(values: Uint8Array, { factors, tileCols, into, at }: RowTarget): void {
  for (let col = 0; col < values.length; col++) {
    const factor = factors.getFloat32(Math.floor(col / tileCols) * 4, true);
    into.setFloat32(at + col * 4, e4m3ToF32(values[col]) * factor, true);
  }
}
