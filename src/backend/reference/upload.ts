/** Reads a tensor a few megabytes at a time and dequantises it. */

import { FormatError } from "../../errors.ts";
import { dequantize } from "../../quant/dequantize.ts";
import { rowBytes } from "../../quant/types.ts";
import type { TensorData } from "../backend.ts";

/** File bytes read at a time. */
const CHUNK_BYTES = 4 * 1024 * 1024;

/** Fills `values`, [rows, cols]. Throws FormatError where a value is NaN or infinite. */
export async function readValues(tensor: TensorData, values: Float32Array): Promise<void> {
  const { name, rows, cols, type } = tensor;
  const bytesPerRow = rowBytes(type, cols);
  const rowsPerChunk = Math.max(1, Math.floor(CHUNK_BYTES / bytesPerRow));
  for (let row = 0; row < rows; row += rowsPerChunk) {
    const count = Math.min(rowsPerChunk, rows - row);
    const bytes = new Uint8Array(count * bytesPerRow);
    await tensor.read(row * bytesPerRow, bytes);
    const chunk = values.subarray(row * cols, (row + count) * cols);
    dequantize(type, bytes, chunk);
    const wrong = chunk.findIndex((value) => !Number.isFinite(value));
    if (wrong < 0) continue;
    const where = `value ${wrong % cols} of row ${row + Math.floor(wrong / cols)}`;
    throw FormatError.of(`load ${name}`, where, chunk[wrong], "a finite number");
  }
}
