/** Brings tensors into GPU memory, some megabytes at a time. */

import { FormatError } from "../../errors.ts";
import { quantizeQ8_0 } from "../../quant/classic.ts";
import { dequantize } from "../../quant/dequantize.ts";
import { rowBytes, TENSOR_TYPES, type TensorType } from "../../quant/types.ts";
import type { TensorData } from "../backend.ts";
import type { GpuAllocator } from "./allocator.ts";
import { GpuWeight, type WeightPart } from "./memory.ts";
import { allFinite, EXPONENT_F32 } from "./weights/floats.ts";
import { planeBytes, rowQuantWords, type WeightFormat } from "./weights/format.ts";
import { formatOf } from "./weights/formats.ts";

/** Bytes of a chunk: as they are read, and as they are packed. */
const CHUNK_BYTES = 8 << 20;
/** Bytes between two looks at how far the GPU is; it is at most twice as far behind. */
const WINDOW_BYTES = 256 << 20;

/** Memory that chunks pass through, kept from one tensor to the next. */
class Staging {
  readonly #memory = new Map<string, ArrayBuffer>();

  /** So many bytes of whatever was there before. */
  bytes(name: "file" | "floats" | "quants" | "scales", length: number): Uint8Array<ArrayBuffer> {
    let memory = this.#memory.get(name);
    if (memory === undefined || memory.byteLength < length) {
      memory = new ArrayBuffer(Math.max(length, CHUNK_BYTES));
      this.#memory.set(name, memory);
    }
    return new Uint8Array(memory, 0, length);
  }
}

export class Uploader {
  readonly conversions: string[] = [];
  readonly #allocator: GpuAllocator;
  readonly #maxBinding: number;
  /** Not in use now: uploads may run side by side. */
  readonly #staging: Staging[] = [];
  #written = 0;
  #before: Promise<unknown> = Promise.resolve();

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
    const format = formatOf(type, { exact: exact || each === 1, cols });
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
    const staging = this.#staging.pop() ?? new Staging();
    for (let firstRow = 0; firstRow < rows; firstRow += step) {
      const end = Math.min(rows, firstRow + step);
      const part = this.#part(format, { name, firstRow, rows: end - firstRow, cols });
      parts.push(part);
      for (let row = firstRow; row < end;) {
        const tensor = tensors[Math.floor(row / each)];
        const from = row % each;
        const count = Math.min(end - row, each - from);
        await this.#fill(part, { tensor, format, from, count, at: row - firstRow, staging });
        row += count;
      }
    }
    this.#staging.push(staging);
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
    { tensor, format, from, count, at, staging }: {
      tensor: TensorData;
      format: WeightFormat;
      from: number;
      count: number;
      /** First row within the part. */
      at: number;
      staging: Staging;
    },
  ): Promise<void> {
    const { type, cols } = tensor;
    const fileRow = rowBytes(type, cols);
    const quantRow = rowQuantWords(format, cols) * 4;
    const scaleRow = format.scaleWords(cols) * 4;
    const step = Math.max(1, Math.floor(CHUNK_BYTES / Math.max(fileRow, quantRow)));
    const { queue } = this.#allocator.device;
    for (let row = 0; row < count; row += step) {
      const rows = Math.min(step, count - row);
      const bytes = staging.bytes("file", rows * fileRow);
      await tensor.read((from + row) * fileRow, bytes);
      const file = convert(tensor, { to: format.type, bytes, staging });
      const planes = {
        quants: wordsOf(
          format.asInFile?.(cols) ? file : staging.bytes("quants", rows * quantRow),
        ),
        scales: wordsOf(staging.bytes("scales", rows * scaleRow)),
      };
      if (!format.pack(file, { rows, cols }, planes)) throw notFinite(tensor);
      queue.writeBuffer(part.memory, (at + row) * quantRow, planes.quants);
      if (scaleRow > 0) {
        const offset = part.planes.scaleOffset + (at + row) * scaleRow;
        queue.writeBuffer(part.memory, offset, planes.scales);
      }
      await this.#keepPace(rows * (quantRow + scaleRow));
    }
  }

  /** Lets the GPU take what was written: the queue keeps a copy until then. */
  async #keepPace(bytes: number): Promise<void> {
    this.#written += bytes;
    if (this.#written < WINDOW_BYTES) return;
    this.#written = 0;
    const before = this.#before;
    const { queue } = this.#allocator.device;
    queue.submit([]);
    // Of a lost device the backend hears elsewhere.
    this.#before = queue.onSubmittedWorkDone().catch(() => {});
    await before;
  }
}

/** The tensor's bytes as those of the type that its format packs. */
function convert(
  tensor: TensorData,
  { to, bytes, staging }: { to: TensorType; bytes: Uint8Array<ArrayBuffer>; staging: Staging },
): Uint8Array<ArrayBuffer> {
  if (to === tensor.type) return bytes;
  const { blockValues, blockBytes } = TENSOR_TYPES[tensor.type];
  const floats = staging.bytes("floats", bytes.length / blockBytes * blockValues * 4);
  const values = new Float32Array(floats.buffer, 0, floats.byteLength / 4);
  dequantize(tensor.type, bytes, values);
  if (to === "F32") return floats;
  if (!allFinite(wordsOf(floats), EXPONENT_F32)) throw notFinite(tensor);
  return quantizeQ8_0(values);
}

function wordsOf({ buffer, byteLength }: Uint8Array<ArrayBuffer>): Uint32Array<ArrayBuffer> {
  return new Uint32Array(buffer, 0, byteLength / 4);
}

function notFinite({ name }: TensorData): FormatError {
  return FormatError.of(`load ${name}`, "one of its values", "NaN or infinite", "finite");
}
