/** Brings tensors into the kernels' layout, a few megabytes at a time. */

import { CapacityError, FormatError } from "../../errors.ts";
import { quantizeQ8_0 } from "../../quant/classic.ts";
import { dequantize } from "../../quant/dequantize.ts";
import { rowBytes, TENSOR_TYPES, type TensorType } from "../../quant/types.ts";
import type { ActivationPrecision, TensorData } from "../backend.ts";
import type { Arena, Kernels } from "./kernels.ts";
import type { WasmWeight } from "./memory.ts";

const GROUP_ROWS = 8;
const STAGING_BYTES = 512 << 10;

export class Uploader {
  readonly #kernels: Kernels;
  readonly #memory: WebAssembly.Memory;
  readonly #arena: Arena;
  readonly #activations: ActivationPrecision;
  readonly conversions: string[] = [];
  /** Address and bytes of the shared memory that rows pass through. */
  #staging = { address: 0, bytes: 0 };
  #file = new Uint8Array(0);

  constructor(
    { kernels, memory, arena, activations }: {
      kernels: Kernels;
      memory: WebAssembly.Memory;
      arena: Arena;
      activations: ActivationPrecision;
    },
  ) {
    this.#kernels = kernels;
    this.#memory = memory;
    this.#arena = arena;
    this.#activations = activations;
  }

  upload(tensor: TensorData): Promise<WasmWeight> {
    return tensor.rows === 1 ? this.#vector(tensor) : this.#matrix(tensor);
  }

  async #vector(tensor: TensorData): Promise<WasmWeight> {
    const bytes = new Uint8Array(rowBytes(tensor.type, tensor.cols));
    await tensor.read(0, bytes);
    const values = new Float32Array(tensor.cols);
    dequantize(tensor.type, bytes, values);
    const byteLength = values.byteLength;
    const address = this.#arena.allocate(byteLength, tensor.name);
    new Float32Array(this.#memory.buffer, address, tensor.cols).set(values);
    const { name, rows, cols } = tensor;
    return { name, rows, cols, type: "F32", byteLength, kind: 0, descriptor: 0, vector: address };
  }

  async #matrix(tensor: TensorData): Promise<WasmWeight> {
    const { name, rows, cols } = tensor;
    const type = this.#packedType(tensor.type, cols);
    if (type !== tensor.type) this.conversions.push(`${name}: ${tensor.type} -> ${type}`);
    const kind = TENSOR_TYPES[type].ggmlId;
    const byteLength = this.#kernels.packed_bytes(kind, rows, cols);
    if (byteLength === 0) {
      const { blockValues } = TENSOR_TYPES[type];
      throw FormatError.of(`load ${name}`, "its row length", cols, `a multiple of ${blockValues}`);
    }
    const address = this.#arena.allocate(byteLength, name);
    const groupBytes = byteLength / Math.ceil(rows / GROUP_ROWS);
    const fileRow = rowBytes(tensor.type, cols);
    const packedRow = rowBytes(type, cols);
    const batch = Math.max(
      GROUP_ROWS,
      Math.floor(STAGING_BYTES / Math.max(fileRow, packedRow) / GROUP_ROWS) * GROUP_ROWS,
    );
    for (let row = 0; row < rows; row += batch) {
      const count = Math.min(batch, rows - row);
      const file = this.#fileBytes(count * fileRow);
      await tensor.read(row * fileRow, file);
      const staged = convert({ from: tensor.type, to: type, bytes: file, values: count * cols });
      const staging = this.#stage(staged);
      this.#kernels.pack(kind, staging, count, cols, address + (row / GROUP_ROWS) * groupBytes);
    }
    const descriptor = this.#arena.allocate(16, name);
    this.#kernels.describe_weight(descriptor, kind, rows, cols, address);
    return { name, rows, cols, type, byteLength, kind, descriptor, vector: 0 };
  }

  /** The type a tensor is kept in: its own where kernels read it, else one that holds its values. */
  #packedType(type: TensorType, cols: number): TensorType {
    if (TENSOR_TYPES[type].kernel !== null) return type;
    return this.#activations === "f32" || cols % 32 !== 0 ? "F32" : "Q8_0";
  }

  #fileBytes(bytes: number): Uint8Array {
    if (this.#file.byteLength < bytes) this.#file = new Uint8Array(bytes);
    return this.#file.subarray(0, bytes);
  }

  #stage(bytes: Uint8Array): number {
    if (this.#staging.bytes < bytes.byteLength) {
      const size = Math.max(bytes.byteLength, STAGING_BYTES);
      const address = this.#kernels.allocate(size);
      if (address === 0) {
        throw new CapacityError(`cannot stage tensor rows: ${size} bytes are not to be had`);
      }
      this.#staging = { address, bytes: size };
    }
    new Uint8Array(this.#memory.buffer, this.#staging.address, bytes.byteLength).set(bytes);
    return this.#staging.address;
  }
}

function convert(
  { from, to, bytes, values }: {
    from: TensorType;
    to: TensorType;
    bytes: Uint8Array;
    values: number;
  },
): Uint8Array {
  if (from === to) return bytes;
  const floats = new Float32Array(values);
  dequantize(from, bytes, floats);
  return to === "Q8_0" ? quantizeQ8_0(floats) : new Uint8Array(floats.buffer);
}
