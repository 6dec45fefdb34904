/**
 * GPT-OSS's experts as its checkpoints have them, gate and up in turn: rows and columns exchanged, or in
 * MXFP4 blocks (OCP Microscaling formats, section 5.3) whose scales are a tensor of their own.
 */

import type { TensorData } from "../backend/backend.ts";
import { TENSOR_TYPES } from "../quant/types.ts";
import { isPlain, rowwise, transpose } from "./tensor_data.ts";
import type { StoredWeights } from "./weights.ts";

const BLOCK = TENSOR_TYPES.MXFP4.blockValues;
const BLOCK_BYTES = TENSOR_TYPES.MXFP4.blockBytes;
/** MXFP4 rows repacked at a time. */
const ROWS_AT_ONCE = 256;

/** Columns `first`, `first + step`, ... of a matrix of plain numbers, as rows. */
export function transposed(
  tensor: TensorData,
  { first, step }: { first: number; step: number },
): TensorData {
  const { name, type, rows, cols } = tensor;
  if (!isPlain(type)) throw new TypeError(`cannot transpose ${name}: it consists of blocks`);
  const size = TENSOR_TYPES[type].blockBytes;
  const shape = {
    name: `${name} (columns ${first}::${step})`,
    type,
    rows: cols / step,
    cols: rows,
  };
  return rowwise(shape, {
    rowsAtOnce: shape.rows,
    async fill(_, out) {
      const from = new Uint8Array(rows * cols * size);
      await tensor.read(0, from);
      const picked = step === 1 ? from : pickColumns(from, { first, step, size });
      transpose(picked, { rows, cols: shape.rows, size, out });
    },
  });
}

/** Every `step`th element; rows are a multiple of the step long. */
function pickColumns(
  from: Uint8Array,
  { first, step, size }: { first: number; step: number; size: number },
): Uint8Array {
  const picked = new Uint8Array(from.length / step);
  for (let at = first * size, o = 0; o < picked.length; at += step * size, o += size) {
    for (let b = 0; b < size; b++) picked[o + b] = from[at + b];
  }
  return picked;
}

/** MXFP4 as GPT-OSS's checkpoint has it: 16 bytes of neighbouring pairs a block, scales apart. */
export interface Mxfp4Parts {
  readonly name: string;
  /** Rows of an expert. */
  readonly perExpert: number;
  readonly blocks: TensorData["read"];
  readonly scales: TensorData["read"];
}

export function mxfp4Parts(
  role: "expertsGateUp" | "expertsDown",
  { layer, loader, rows }: { layer: number; loader: StoredWeights; rows: number },
): Mxfp4Parts {
  const blocks = loader.tensor(role, { layer });
  const { read: scales } = loader.tensor(`${role}Scales`, { layer });
  return { name: blocks.name, perExpert: rows, blocks: blocks.read, scales };
}

/** Rows `first`, `first + step`, ... of an expert in ggml's order: a block's halves in its nibbles. */
export function mxfp4Rows(
  parts: Mxfp4Parts,
  options: {
    expert: number;
    rows: number;
    cols: number;
    first: number;
    step: number;
  },
): TensorData {
  const { name, perExpert, blocks, scales } = parts;
  const { expert, rows, cols, first, step } = options;
  const perRow = cols / BLOCK;
  const packed = BLOCK / 2;
  const shape = { name: `${name}[${expert}] (rows ${first}::${step})`, rows, cols };
  return rowwise({ ...shape, type: "MXFP4" }, {
    rowsAtOnce: ROWS_AT_ONCE,
    async fill(row, out) {
      const count = out.length / (perRow * BLOCK_BYTES);
      const start = (expert * perExpert + row * step) * perRow;
      const nibbles = new Uint8Array(count * step * perRow * packed);
      const exponents = new Uint8Array(count * step * perRow);
      await blocks(start * packed, nibbles);
      await scales(start, exponents);
      for (let r = 0; r < count; r++) {
        for (let b = 0; b < perRow; b++) {
          const from = (r * step + first) * perRow + b;
          const at = (r * perRow + b) * BLOCK_BYTES;
          out[at] = exponents[from];
          const pairs = nibbles.subarray(from * packed, (from + 1) * packed);
          for (let j = 0; j < packed; j++) {
            out[at + 1 + j] = nibble(pairs, j) | (nibble(pairs, j + packed) << 4);
          }
        }
      }
    },
  });
}

function nibble(pairs: Uint8Array, index: number): number {
  return (pairs[index >> 1] >> ((index & 1) * 4)) & 15;
}
