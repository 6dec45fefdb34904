/**
 * Tensors as a backend asks for them, made of those that a file has: runs of rows, some rows of each
 * head, transposed heads, other element types. Nothing is held whole but what must be turned round.
 */

import type { TensorData } from "../backend/backend.ts";
import type { OtherTensorInfo, TensorInfo, TensorSource } from "../formats/tensor_source.ts";
import { dequantize } from "../quant/dequantize.ts";
import { f32ToF16 } from "../quant/half.ts";
import { rowBytes, type TensorType } from "../quant/types.ts";

/** Bytes that a view reads at a time while it turns or converts. */
const CHUNK_BYTES = 4 * 1024 * 1024;

/** A tensor of a file as it is; further extents than two count as rows. */
export function fileTensor(
  source: TensorSource,
  options: {
    tensor: TensorInfo | OtherTensorInfo;
    type: TensorType;
    /** Told how many bytes a read has brought in. */
    onRead: (bytes: number) => void;
  },
): TensorData {
  const { tensor, type, onRead } = options;
  const cols = tensor.shape[tensor.shape.length - 1];
  const place = source.locate?.(tensor);
  return {
    name: tensor.name,
    type,
    rows: tensor.shape.slice(0, -1).reduce((product, extent) => product * extent, 1),
    cols,
    async read(offset, into) {
      await source.read(tensor, offset, into);
      onRead(into.length);
    },
    ...(place && { location: { ...place, byteLength: tensor.byteLength } }),
  };
}

/** `count` rows from row `start` on, as a matrix of its own. */
export function rowRange(
  tensor: TensorData,
  options: { name: string; start: number; count: number },
): TensorData {
  const { name, start, count } = options;
  const bytes = rowBytes(tensor.type, tensor.cols);
  const first = start * bytes;
  return {
    name,
    type: tensor.type,
    rows: count,
    cols: tensor.cols,
    read: (offset, into) => tensor.read(first + offset, into),
    ...(tensor.location && {
      location: {
        ...tensor.location,
        offset: tensor.location.offset + first,
        byteLength: count * bytes,
      },
    }),
  };
}

/** A part of each head's rows: `[heads * count, cols]` of `[heads * perHead, cols]`. */
export interface HeadRows {
  readonly name: string;
  readonly heads: number;
  readonly perHead: number;
  /** The first row of a head that takes part, and how many do. */
  readonly start: number;
  readonly count: number;
}

/** The rows `start .. start + count` of each head, in the file's type. */
export function headRows(tensor: TensorData, options: HeadRows): TensorData {
  const { name, heads, perHead, start, count } = options;
  const bytes = rowBytes(tensor.type, tensor.cols);
  const run = count * bytes;
  return {
    name,
    type: tensor.type,
    rows: heads * count,
    cols: tensor.cols,
    async read(offset, into) {
      for (let done = 0; done < into.length;) {
        const head = Math.floor((offset + done) / run);
        const within = (offset + done) % run;
        const length = Math.min(run - within, into.length - done);
        const from = (head * perHead + start) * bytes + within;
        await tensor.read(from, into.subarray(done, done + length));
        done += length;
      }
    },
  };
}

/**
 * The same rows with each head transposed: `[heads * cols, count]`. Types without blocks are kept;
 * the others, whose blocks lie across the new rows, become `otherwise`.
 */
export function transposedHeads(
  tensor: TensorData,
  options: HeadRows & { otherwise: "F32" | "F16" },
): TensorData {
  const { name, heads, count, otherwise } = options;
  const part = headRows(tensor, options);
  const plain = isPlain(part.type) ? part : converted(part, otherwise);
  const { type, cols } = plain;
  const size = rowBytes(type, 1);
  return rowwise({ name, type, rows: heads * cols, cols: count }, {
    rowsAtOnce: cols,
    async fill(row, out) {
      const head = Math.floor(row / cols);
      const from = new Uint8Array(count * cols * size);
      await plain.read(head * from.length, from);
      transpose(from, { rows: count, cols, size, out });
    },
  });
}

/** Whether a type has a value in so many bytes of its own, so that values can be moved about. */
export function isPlain(type: TensorType): type is "F32" | "F16" | "BF16" {
  return type === "F32" || type === "F16" || type === "BF16";
}

/** The tensor's values as another plain type; F16 rounds. */
export function converted(tensor: TensorData, type: "F32" | "F16"): TensorData {
  const { name, rows, cols } = tensor;
  const bytes = rowBytes(tensor.type, cols);
  const rowsAtOnce = Math.max(1, Math.floor(CHUNK_BYTES / (cols * 4)));
  return rowwise({ name, type, rows, cols }, {
    rowsAtOnce,
    async fill(row, out) {
      const count = out.length / rowBytes(type, cols);
      const from = new Uint8Array(count * bytes);
      await tensor.read(row * bytes, from);
      const values = new Float32Array(count * cols);
      dequantize(tensor.type, from, values);
      const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
      if (type === "F32") values.forEach((value, i) => view.setFloat32(i * 4, value, true));
      else values.forEach((value, i) => view.setUint16(i * 2, f32ToF16(value), true));
    },
  });
}

/**
 * A tensor that is computed in runs of `rowsAtOnce` rows (the last may be shorter). `fill` gets the
 * run's first row and its bytes; the last run computed is kept, so that small reads in order are cheap.
 */
export function rowwise(
  shape: { name: string; type: TensorType; rows: number; cols: number },
  options: { rowsAtOnce: number; fill: (row: number, out: Uint8Array) => Promise<void> },
): TensorData {
  const { rows, cols, type } = shape;
  const { rowsAtOnce, fill } = options;
  const bytes = rowBytes(type, cols);
  const runBytes = rowsAtOnce * bytes;
  const byteLength = rows * bytes;
  let kept: { run: number; bytes: Uint8Array } | undefined;
  return {
    ...shape,
    async read(offset, into) {
      if (offset + into.length > byteLength) {
        throw new RangeError(
          `cannot read ${shape.name}: the end is byte ${offset + into.length}, ` +
            `must be at most ${byteLength}`,
        );
      }
      for (let done = 0; done < into.length;) {
        const run = Math.floor((offset + done) / runBytes);
        if (kept?.run !== run) {
          const made = new Uint8Array(Math.min(runBytes, byteLength - run * runBytes));
          await fill(run * rowsAtOnce, made);
          kept = { run, bytes: made };
        }
        const within = offset + done - run * runBytes;
        const part = kept.bytes.subarray(within, within + into.length - done);
        into.set(part, done);
        done += part.length;
        // Tensors outlive their reading where experts are paged; what was computed must not.
        if (offset + done === byteLength) kept = undefined;
      }
    },
  };
}

/** `out` [cols, rows] of `from` [rows, cols], elements of `size` bytes. */
export function transpose(
  from: Uint8Array,
  options: { rows: number; cols: number; size: number; out: Uint8Array },
): void {
  const { rows, cols, size, out } = options;
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < cols; c++) {
      const source = (r * cols + c) * size;
      const target = (c * rows + r) * size;
      for (let b = 0; b < size; b++) out[target + b] = from[source + b];
    }
  }
}
