/** Brings tensors into GPU memory, some megabytes at a time. */

import { FormatError } from "../../errors.ts";
import { dequantize } from "../../quant/dequantize.ts";
import { rowBytes, TENSOR_TYPES } from "../../quant/types.ts";
import type { TensorData } from "../backend.ts";
import type { GpuAllocator } from "./allocator.ts";
import { GpuWeight, type WeightPart } from "./memory.ts";
import { planeBytes, rowQuantWords, type WeightFormat } from "./weights/format.ts";
import { formatOf } from "./weights/formats.ts";

/** File bytes read and packed at a time. */
const CHUNK_BYTES = 8 << 20;

export class Uploader {
  readonly conversions: string[] = [];
  readonly #allocator: GpuAllocator;
  readonly #maxBinding: number;

  constructor(allocator: GpuAllocator, maxBinding: number) {
    this.#allocator = allocator;
    this.#maxBinding = maxBinding;
  }

  /** One tensor, or several of one shape and type stacked row upon row. */
  async upload(
    tensors: readonly TensorData[],
    { exact = false }: { exact?: boolean } = {},
  ): Promise<GpuWeight> {
    const [{ name, type, rows: each, cols }] = tensors;
    // Vectors are read as plain float32 by every kernel.
    const format = formatOf(type, { exact: exact || each === 1 });
    const { blockValues } = TENSOR_TYPES[type];
    if (cols % blockValues !== 0) {
      throw FormatError.of(`load ${name}`, "its row length", cols, `a multiple of ${blockValues}`);
    }
    if (format.type !== type && TENSOR_TYPES[type].kernel === null) {
      this.conversions.push(`${name}: ${type} -> ${format.type}`);
    }
    const rows = each * tensors.length;
    const parts: WeightPart[] = [];
    const step = this.#rowsOfPart(format, { each, cols });
    for (let firstRow = 0; firstRow < rows; firstRow += step) {
      const part = this.#part(format, {
        name,
        firstRow,
        rows: Math.min(step, rows - firstRow),
        cols,
      });
      parts.push(part);
      for (let row = firstRow; row < firstRow + part.rows;) {
        const tensor = tensors[Math.floor(row / each)];
        const end = Math.min(firstRow + part.rows, (Math.floor(row / each) + 1) * each);
        await this.#fill(part, {
          tensor,
          format,
          from: row % each,
          count: end - row,
          at: row - firstRow,
        });
        row = end;
      }
    }
    return new GpuWeight({ name, type, rows, cols }, format, parts);
  }

  /** Whole tensors where they are stacked and small enough, so that an expert is never split. */
  #rowsOfPart(format: WeightFormat, { each, cols }: { each: number; cols: number }): number {
    const rowBytes = Math.max(rowQuantWords(format, cols), format.scaleWords(cols)) * 4;
    const most = Math.floor(this.#maxBinding / rowBytes);
    return most >= each ? Math.floor(most / each) * each : most;
  }

  #part(
    format: WeightFormat,
    { name, firstRow, rows, cols }: { name: string; firstRow: number; rows: number; cols: number },
  ): WeightPart {
    const planes = planeBytes(format, { rows, cols });
    const size = planes.scaleOffset + Math.max(planes.scaleBytes, 4);
    return { memory: this.#allocator.allocate("weights", size, name), firstRow, rows, planes };
  }

  async #fill(
    part: WeightPart,
    { tensor, format, from, count, at }: {
      tensor: TensorData;
      format: WeightFormat;
      from: number;
      count: number;
      /** First row within the part. */
      at: number;
    },
  ): Promise<void> {
    const { type, cols } = tensor;
    const bytesPerRow = rowBytes(type, cols);
    const rowsPerChunk = Math.max(1, Math.floor(CHUNK_BYTES / bytesPerRow));
    const quantWords = rowQuantWords(format, cols);
    const scaleWords = format.scaleWords(cols);
    const { queue } = this.#allocator.device;
    for (let row = 0; row < count; row += rowsPerChunk) {
      const rows = Math.min(rowsPerChunk, count - row);
      const bytes = new Uint8Array(rows * bytesPerRow);
      await tensor.read((from + row) * bytesPerRow, bytes);
      const file = format.type === type ? bytes : floatsOf(tensor, bytes, rows * cols);
      const quants = new Uint32Array(rows * quantWords);
      const scales = new Uint32Array(rows * scaleWords);
      if (!format.pack(file, { rows, cols }, { quants, scales })) {
        throw FormatError.of(
          `load ${tensor.name}`,
          "one of its values",
          "NaN or infinite",
          "finite",
        );
      }
      queue.writeBuffer(part.memory, (at + row) * quantWords * 4, quants);
      if (scaleWords === 0) continue;
      const offset = part.planes.scaleOffset + (at + row) * scaleWords * 4;
      queue.writeBuffer(part.memory, offset, scales);
    }
  }
}

function floatsOf({ type }: TensorData, bytes: Uint8Array, length: number): Uint8Array {
  const values = new Float32Array(length);
  dequantize(type, bytes, values);
  return new Uint8Array(values.buffer);
}
