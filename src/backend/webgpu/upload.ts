/** Brings tensors into GPU memory, some megabytes at a time. */

import { FormatError } from "../../errors.ts";
import { quantizeQ8_0 } from "../../quant/classic.ts";
import { dequantize } from "../../quant/dequantize.ts";
import { rowBytes, TENSOR_TYPES, type TensorType } from "../../quant/types.ts";
import type { TensorData } from "../backend.ts";
import type { GpuAllocator } from "./allocator.ts";
import { GpuWeight, type WeightPart } from "./memory.ts";
import { allFinite, EXPONENT_F32 } from "./weights/floats.ts";
import {
  PLANE_ALIGNMENT,
  planeBytes,
  type Planes,
  rowQuantWords,
  type WeightFormat,
} from "./weights/format.ts";
import { formatOf } from "./weights/formats.ts";

/** Bytes of a chunk, as it is read and as it is packed. */
const CHUNK_BYTES = 8 << 20;

/** Bytes written between two looks at how far the GPU is, which is at most twice as many behind. */
const WINDOW_BYTES = 64 << 20;

/** Rows on their way. */
interface Layout {
  readonly type: TensorType;
  readonly format: WeightFormat;
  readonly cols: number;
  /** Bytes of a row in the file and in the planes. */
  readonly fileRow: number;
  readonly quantRow: number;
  readonly scaleRow: number;
}

/** Consecutive rows of one tensor. */
interface Run {
  readonly tensor: TensorData;
  readonly from: number;
  readonly rows: number;
}

export class Uploader {
  readonly conversions: string[] = [];
  readonly #allocator: GpuAllocator;
  readonly #maxBinding: number;
  /** Not in use now: uploads may run side by side. */
  readonly #scratch: Scratch[] = [];
  #written = 0;
  #taken: Promise<unknown> = Promise.resolve();

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
    const { blockValues, kernel } = TENSOR_TYPES[type];
    if (cols % blockValues !== 0) {
      throw FormatError.of(`load ${name}`, "its row length", cols, `a multiple of ${blockValues}`);
    }
    // Vectors are read as plain float32 by every kernel.
    const format = formatOf(type, { exact: exact || each === 1, cols });
    if (format.type !== type && kernel === null) {
      this.conversions.push(`${name}: ${type} -> ${format.type}`);
    }
    const layout = layoutOf(type, { format, cols });
    const rows = each * tensors.length;
    const parts: WeightPart[] = [];
    const partRows = this.#rowsOfPart(layout, each);
    const chunkRows = rowsOfChunk(layout);
    const scratch = this.#scratch.pop() ?? new Scratch();
    for (let firstRow = 0; firstRow < rows; firstRow += partRows) {
      const end = Math.min(rows, firstRow + partRows);
      const part = this.#part(format, { name, firstRow, rows: end - firstRow, cols });
      parts.push(part);
      for (let row = firstRow; row < end; row += chunkRows) {
        const runs = runsOf(tensors, { row, end: Math.min(end, row + chunkRows) });
        await this.#fill(part, { layout, runs, at: row - firstRow, scratch });
      }
    }
    this.#scratch.push(scratch);
    return new GpuWeight({ name, type, rows, cols }, format, parts);
  }

  /** Overwrites rows of a weight, from `firstRow` on, with those of a tensor of its type and width. */
  async replace(
    weight: GpuWeight,
    { tensor, firstRow }: { tensor: TensorData; firstRow: number },
  ): Promise<void> {
    const { type, format, cols } = weight;
    if (tensor.type !== type) {
      throw FormatError.of(`load ${tensor.name}`, "its type", tensor.type, `${type} as before`);
    }
    const layout = layoutOf(type, { format, cols });
    const chunkRows = rowsOfChunk(layout);
    const scratch = this.#scratch.pop() ?? new Scratch();
    for (const part of weight.parts) {
      const end = Math.min(firstRow + tensor.rows, part.firstRow + part.rows);
      for (let row = Math.max(firstRow, part.firstRow); row < end; row += chunkRows) {
        const runs = [{ tensor, from: row - firstRow, rows: Math.min(chunkRows, end - row) }];
        await this.#fill(part, { layout, runs, at: row - part.firstRow, scratch });
      }
    }
    this.#scratch.push(scratch);
  }

  /** Whole tensors where they are stacked and small enough, so that an expert is never split. */
  #rowsOfPart({ quantRow, scaleRow }: Layout, each: number): number {
    // The planes lie in one buffer, which may be no larger than a binding on some adapters.
    const most = Math.floor((this.#maxBinding - PLANE_ALIGNMENT) / (quantRow + scaleRow));
    return most >= each ? Math.floor(most / each) * each : Math.max(1, most);
  }

  #part(
    format: WeightFormat,
    { name, firstRow, rows, cols }: { name: string; firstRow: number; rows: number; cols: number },
  ): WeightPart {
    const planes = planeBytes(format, { rows, cols });
    const { quantBytes, scaleOffset, scaleBytes } = planes;
    const size = scaleBytes > 0 ? scaleOffset + scaleBytes : quantBytes;
    return { memory: this.#allocator.allocate("weights", size, name), firstRow, rows, planes };
  }

  /** Brings rows to row `at` of a part. */
  async #fill(
    { memory, planes: { scaleOffset } }: WeightPart,
    { layout, runs, at, scratch }: {
      layout: Layout;
      runs: readonly Run[];
      at: number;
      scratch: Scratch;
    },
  ): Promise<void> {
    const { fileRow, quantRow, scaleRow } = layout;
    const rows = runs.reduce((sum, run) => sum + run.rows, 0);
    const file = scratch.bytes("file", rows * fileRow);
    let start = 0;
    for (const run of runs) {
      const end = start + run.rows * fileRow;
      await run.tensor.read(run.from * fileRow, file.subarray(start, end));
      start = end;
    }
    const planes = pack(file, { layout, rows, scratch });
    if (planes === null) throw notFinite(wrongOf(runs, { layout, file, scratch }));
    const { queue } = this.#allocator.device;
    queue.writeBuffer(memory, at * quantRow, planes.quants);
    if (scaleRow > 0) queue.writeBuffer(memory, scaleOffset + at * scaleRow, planes.scales);
    await this.#keepPace(rows * (quantRow + scaleRow));
  }

  /** Bounds what has been written and not yet taken by the GPU: there is a copy of it until then. */
  async #keepPace(bytes: number): Promise<void> {
    this.#written += bytes;
    if (this.#written < WINDOW_BYTES) return;
    this.#written = 0;
    const { queue } = this.#allocator.device;
    queue.submit([]);
    const before = this.#taken;
    // Of a lost device the backend hears elsewhere.
    this.#taken = queue.onSubmittedWorkDone().catch(() => {});
    await before;
  }
}

/** Memory of the host that rows pass through, kept from one tensor to the next. */
class Scratch {
  readonly #memory = new Map<string, ArrayBuffer>();

  /** So many bytes of whatever was there before. */
  bytes(name: "file" | "floats" | "quants" | "scales", length: number): Uint8Array<ArrayBuffer> {
    let memory = this.#memory.get(name);
    if (memory === undefined || memory.byteLength < length) {
      memory = new ArrayBuffer(length);
      this.#memory.set(name, memory);
    }
    return new Uint8Array(memory, 0, length);
  }
}

function layoutOf(
  type: TensorType,
  { format, cols }: { format: WeightFormat; cols: number },
): Layout {
  return {
    type,
    format,
    cols,
    fileRow: rowBytes(type, cols),
    quantRow: rowQuantWords(format, cols) * 4,
    scaleRow: format.scaleWords(cols) * 4,
  };
}

function rowsOfChunk({ fileRow, quantRow, scaleRow }: Layout): number {
  return Math.max(1, Math.floor(CHUNK_BYTES / Math.max(fileRow, quantRow + scaleRow)));
}

/** Rows `row` to `end` of tensors that are stacked. */
function runsOf(
  tensors: readonly TensorData[],
  { row, end }: { row: number; end: number },
): Run[] {
  const { rows: each } = tensors[0];
  const runs: Run[] = [];
  while (row < end) {
    const from = row % each;
    const rows = Math.min(end - row, each - from);
    runs.push({ tensor: tensors[Math.floor(row / each)], from, rows });
    row += rows;
  }
  return runs;
}

/** The planes of some rows; null where one of their values isn't finite. */
function pack(
  file: Uint8Array<ArrayBuffer>,
  { layout, rows, scratch }: { layout: Layout; rows: number; scratch: Scratch },
): Planes | null {
  const { format, cols, quantRow, scaleRow } = layout;
  const bytes = convert(file, { layout, values: rows * cols, scratch });
  if (bytes === null) return null;
  const planes = {
    quants: wordsOf(format.asInFile?.(cols) ? bytes : scratch.bytes("quants", rows * quantRow)),
    scales: wordsOf(scratch.bytes("scales", rows * scaleRow)),
  };
  return format.pack(bytes, { rows, cols }, planes) ? planes : null;
}

/** The bytes as those of the type that the format packs; null where that can't be for a value. */
function convert(
  file: Uint8Array<ArrayBuffer>,
  { layout, values, scratch }: { layout: Layout; values: number; scratch: Scratch },
): Uint8Array<ArrayBuffer> | null {
  const { type, format } = layout;
  if (format.type === type) return file;
  const bytes = scratch.bytes("floats", values * 4);
  const floats = new Float32Array(bytes.buffer, 0, values);
  dequantize(type, file, floats);
  if (format.type === "F32") return bytes;
  return allFinite(wordsOf(bytes), EXPONENT_F32) ? quantizeQ8_0(floats) : null;
}

/** The first tensor of whose rows one isn't finite. */
function wrongOf(
  runs: readonly Run[],
  { layout, file, scratch }: { layout: Layout; file: Uint8Array<ArrayBuffer>; scratch: Scratch },
): TensorData {
  let start = 0;
  for (const { tensor, rows } of runs) {
    const end = start + rows * layout.fileRow;
    const bytes = file.slice(start, end);
    if (pack(bytes, { layout, rows, scratch }) === null) return tensor;
    start = end;
  }
  return runs[0].tensor;
}

function wordsOf({ buffer, byteLength }: Uint8Array<ArrayBuffer>): Uint32Array<ArrayBuffer> {
  return new Uint32Array(buffer, 0, byteLength / 4);
}

function notFinite({ name }: TensorData): FormatError {
  return FormatError.of(`load ${name}`, "one of its values", "NaN or infinite", "finite");
}
