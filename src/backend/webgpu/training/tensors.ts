/** Tensors of files as weights that are trained take them. */

import { dequantize } from "../../../quant/dequantize.ts";
import { f32ToF16 } from "../../../quant/half.ts";
import { rowBytes } from "../../../quant/types.ts";
import type { TensorData } from "../../backend.ts";

/** The tensor as float32, whatever it is in its file; rows are converted as they are read. */
export function asFloats(tensor: TensorData): TensorData {
  const { name, type, rows, cols } = tensor;
  if (type === "F32") return tensor;
  const bytesPerRow = rowBytes(type, cols);
  return {
    ...{ name, type: "F32", rows, cols },
    async read(offset, into) {
      const first = offset / (cols * 4);
      const count = into.length / (cols * 4);
      const bytes = new Uint8Array(count * bytesPerRow);
      await tensor.read(first * bytesPerRow, bytes);
      const values = new Float32Array(count * cols);
      dequantize(type, bytes, values);
      into.set(new Uint8Array(values.buffer));
    },
  };
}

/** The same, each number rounded to a half. */
export function asHalves(tensor: TensorData): TensorData {
  const floats = asFloats(tensor);
  return {
    ...{ name: tensor.name, type: "F16", rows: tensor.rows, cols: tensor.cols },
    async read(offset, into) {
      const values = new Float32Array(into.length / 2);
      await floats.read(2 * offset, new Uint8Array(values.buffer));
      into.set(new Uint8Array(halvesOf(values).buffer));
    },
  };
}

/** The bits of the nearest halves. */
export function halvesOf(values: Float32Array): Uint16Array<ArrayBuffer> {
  return Uint16Array.from(values, f32ToF16);
}

/** Tensors of one shape as one, row upon row, in float32. */
export function stacked(tensors: readonly TensorData[]): TensorData {
  const list = tensors.map(asFloats);
  const [{ name, rows, cols }] = list;
  const each = rows * cols * 4;
  return {
    ...{ name, type: "F32", rows: rows * list.length, cols },
    async read(offset, into) {
      for (let at = 0; at < into.length;) {
        const start = (offset + at) % each;
        const bytes = Math.min(each - start, into.length - at);
        await list[Math.floor((offset + at) / each)].read(start, into.subarray(at, at + bytes));
        at += bytes;
      }
    },
  };
}
