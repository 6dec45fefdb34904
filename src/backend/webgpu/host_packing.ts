/** Packs rows on the host: what the kernels of `packing.ts` are held to, and all other rows. */

import { quantizeQ8_0 } from "../../quant/classic.ts";
import { dequantize } from "../../quant/dequantize.ts";
import { rowBytes, type TensorType } from "../../quant/types.ts";
import { allFinite, EXPONENT_F32 } from "./weights/floats.ts";
import { type Planes, rowQuantWords, type WeightFormat } from "./weights/format.ts";

/** Rows in a file and in GPU memory. */
export interface RowLayout {
  readonly type: TensorType;
  readonly format: WeightFormat;
  readonly cols: number;
  /** Bytes of a row in the file and in the planes. */
  readonly fileRow: number;
  readonly quantRow: number;
  readonly scaleRow: number;
}

/** Memory of the host that rows pass through, kept from one tensor to the next. */
export class Scratch {
  readonly #memory = new Map<string, ArrayBuffer>();

  /** So many bytes of whatever was there before, at the start of memory of whole words. */
  bytes(name: "file" | "floats" | "quants" | "scales", length: number): Uint8Array<ArrayBuffer> {
    let memory = this.#memory.get(name);
    if (memory === undefined || memory.byteLength < length) {
      memory = new ArrayBuffer(Math.ceil(length / 4) * 4);
      this.#memory.set(name, memory);
    }
    return new Uint8Array(memory, 0, length);
  }
}

export function layoutOf(
  type: TensorType,
  { format, cols }: { format: WeightFormat; cols: number },
): RowLayout {
  return {
    type,
    format,
    cols,
    fileRow: rowBytes(type, cols),
    quantRow: rowQuantWords(format, cols) * 4,
    scaleRow: format.scaleWords(cols) * 4,
  };
}

/** The planes of some rows; null where one of their values isn't finite. */
export function packRows(
  file: Uint8Array<ArrayBuffer>,
  { layout, rows, scratch }: { layout: RowLayout; rows: number; scratch: Scratch },
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
  { layout, values, scratch }: { layout: RowLayout; values: number; scratch: Scratch },
): Uint8Array<ArrayBuffer> | null {
  const { type, format } = layout;
  if (format.type === type) return file;
  const bytes = scratch.bytes("floats", values * 4);
  const floats = new Float32Array(bytes.buffer, 0, values);
  dequantize(type, file, floats);
  if (format.type === "F32") return bytes;
  return allFinite(wordsOf(bytes), EXPONENT_F32) ? quantizeQ8_0(floats) : null;
}

function wordsOf({ buffer, byteLength }: Uint8Array<ArrayBuffer>): Uint32Array<ArrayBuffer> {
  return new Uint32Array(buffer, 0, byteLength / 4);
}
