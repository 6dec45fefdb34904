/**
 * Brings tensors into GPU memory, some megabytes at a time. The GPU packs them where it can, the host
 * where it has to look at every value, converts, or has no room for the file's bytes on the GPU.
 */

import { FormatError } from "../../errors.ts";
import { TENSOR_TYPES } from "../../quant/types.ts";
import type { TensorData } from "../backend.ts";
import type { GpuAllocator } from "./allocator.ts";
import { layoutOf, packRows, type RowLayout, Scratch } from "./host_packing.ts";
import { GpuWeight, type WeightPart } from "./memory.ts";
import { Packing, type PackingContext } from "./packing.ts";
import { PLANE_ALIGNMENT, planeBytes, type WeightFormat } from "./weights/format.ts";
import { formatOf } from "./weights/formats.ts";

/** Bytes of a chunk, as it is read and as it is packed. */
const CHUNK_BYTES = 8 << 20;

/** Bytes written between two looks at how far the GPU is, which is at most twice as many behind. */
const WINDOW_BYTES = 64 << 20;

/** Bytes that the host packs sooner than the GPU is told to. */
const FEW_BYTES = 256 << 10;

/** Consecutive rows of one tensor. */
interface Run {
  readonly tensor: TensorData;
  readonly from: number;
  readonly rows: number;
}

/** Consecutive rows of a weight on their way. */
interface Stack {
  readonly layout: RowLayout;
  /** Row upon row. */
  readonly tensors: readonly TensorData[];
  /** The weight's row that the first one comes to. */
  readonly firstRow: number;
}

export class Uploader {
  readonly conversions: string[] = [];
  readonly #context: PackingContext;
  readonly #allocator: GpuAllocator;
  /** Not in use now: uploads may run side by side. */
  readonly #scratch: Scratch[] = [];
  #written = 0;
  #taken: Promise<unknown> = Promise.resolve();

  constructor(context: PackingContext) {
    this.#context = context;
    this.#allocator = context.allocator;
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
    for (let firstRow = 0; firstRow < rows; firstRow += partRows) {
      const count = Math.min(partRows, rows - firstRow);
      parts.push(this.#part(format, { name, firstRow, rows: count, cols }));
    }
    await this.#bring({ layout, tensors, firstRow: 0 }, parts);
    return new GpuWeight({ name, type, rows, cols }, format, parts);
  }

  /** Overwrites rows of a weight, from `firstRow` on, with those of a tensor of its type and width. */
  async replace(
    { type, format, cols, parts }: GpuWeight,
    { tensor, firstRow }: { tensor: TensorData; firstRow: number },
  ): Promise<void> {
    if (tensor.type !== type) {
      throw FormatError.of(`load ${tensor.name}`, "its type", tensor.type, `${type} as before`);
    }
    await this.#bring(
      { layout: layoutOf(type, { format, cols }), tensors: [tensor], firstRow },
      parts,
    );
  }

  /** Whole tensors where they are stacked and small enough, so that an expert is never split. */
  #rowsOfPart({ quantRow, scaleRow }: RowLayout, each: number): number {
    // The planes lie in one buffer, which may be no larger than a binding on some adapters.
    const { maxBinding } = this.#context;
    const most = Math.floor((maxBinding - PLANE_ALIGNMENT) / (quantRow + scaleRow));
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

  async #bring(
    { layout, tensors, firstRow }: Stack,
    parts: readonly WeightPart[],
  ): Promise<void> {
    const rows = tensors[0].rows * tensors.length;
    const chunkRows = Math.min(rows, rowsOfChunk(layout));
    const scratch = this.#scratch.pop() ?? new Scratch();
    const packing = this.#packing(layout, { rows, chunkRows });
    try {
      for (const part of parts) {
        const end = Math.min(firstRow + rows, part.firstRow + part.rows);
        for (let row = Math.max(firstRow, part.firstRow); row < end; row += chunkRows) {
          const last = Math.min(end, row + chunkRows);
          const runs = runsOf(tensors, { row: row - firstRow, end: last - firstRow });
          await this.#fill(part, { layout, runs, at: row - part.firstRow, scratch, packing });
        }
      }
    } finally {
      packing?.close();
    }
    this.#scratch.push(scratch);
  }

  /** Null where the host packs. */
  #packing(
    layout: RowLayout,
    { rows, chunkRows }: { rows: number; chunkRows: number },
  ): Packing | null {
    if (rows * layout.fileRow < FEW_BYTES) return null;
    return Packing.open(this.#context, { layout, rows: chunkRows });
  }

  /** Brings rows to row `at` of a part. */
  async #fill(
    part: WeightPart,
    { layout, runs, at, scratch, packing }: {
      layout: RowLayout;
      runs: readonly Run[];
      at: number;
      scratch: Scratch;
      packing: Packing | null;
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
    const finite = packing === null
      ? this.#pack(part, { layout, file, rows, at, scratch })
      : packing.run(part, { file, at });
    if (!finite) throw notFinite(wrongOf(runs, { layout, file, scratch }));
    await this.#keepPace(rows * Math.max(fileRow, quantRow + scaleRow));
  }

  /** Packs on the host. Returns false where a value is NaN or infinite. */
  #pack(
    { memory, planes: { scaleOffset } }: WeightPart,
    { layout, file, rows, at, scratch }: {
      layout: RowLayout;
      file: Uint8Array<ArrayBuffer>;
      rows: number;
      at: number;
      scratch: Scratch;
    },
  ): boolean {
    const { quantRow, scaleRow } = layout;
    const planes = packRows(file, { layout, rows, scratch });
    if (planes === null) return false;
    const { queue } = this.#allocator.device;
    queue.writeBuffer(memory, at * quantRow, planes.quants);
    if (scaleRow > 0) queue.writeBuffer(memory, scaleOffset + at * scaleRow, planes.scales);
    return true;
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

function rowsOfChunk({ fileRow, quantRow, scaleRow }: RowLayout): number {
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

/** The first tensor of whose rows one isn't finite. */
function wrongOf(
  runs: readonly Run[],
  { layout, file, scratch }: { layout: RowLayout; file: Uint8Array<ArrayBuffer>; scratch: Scratch },
): TensorData {
  let start = 0;
  for (const { tensor, rows } of runs) {
    const end = start + rows * layout.fileRow;
    const bytes = file.slice(start, end);
    if (packRows(bytes, { layout, rows, scratch }) === null) return tensor;
    start = end;
  }
  return runs[0].tensor;
}

function notFinite({ name }: TensorData): FormatError {
  return FormatError.of(`load ${name}`, "one of its values", "NaN or infinite", "finite");
}
