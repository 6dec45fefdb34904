/** Brings tensors into the kernels' layout, a few megabytes at a time. */

import { CapacityError, FormatError } from "../../errors.ts";
import { quantizeQ8_0 } from "../../quant/classic.ts";
import { dequantize } from "../../quant/dequantize.ts";
import { rowBytes, TENSOR_TYPES, type TensorType } from "../../quant/types.ts";
import type { ActivationPrecision, TensorData, UploadOptions } from "../backend.ts";
import type { Bank } from "./bank.ts";
import { SmallVector, type WasmWeight } from "./memory.ts";

const GROUP_ROWS = 8;
const STAGING_BYTES = 512 << 10;

/** A matrix as it is going to lie in memory. */
export interface PackedShape {
  readonly type: TensorType;
  readonly kind: number;
  readonly byteLength: number;
}

export class Uploader {
  readonly #activations: ActivationPrecision;
  readonly conversions: string[] = [];
  /** Address and bytes of each bank's memory that rows pass through. */
  readonly #staging = new Map<Bank, { address: number; bytes: number }>();
  #file = new Uint8Array(0);

  constructor(activations: ActivationPrecision) {
    this.#activations = activations;
  }

  async vector(tensor: TensorData, bank: Bank): Promise<WasmWeight> {
    const vector = await this.smallVector(tensor);
    vector.in(bank);
    const { name, rows, cols } = tensor;
    const { byteLength } = vector.values;
    return { name, rows, cols, type: "F32", byteLength, bank, kind: 0, descriptor: 0, vector };
  }

  /** A one-row tensor as float32, in no bank yet. */
  async smallVector(tensor: TensorData): Promise<SmallVector> {
    const bytes = new Uint8Array(rowBytes(tensor.type, tensor.cols));
    await tensor.read(0, bytes);
    const values = new Float32Array(tensor.cols);
    dequantize(tensor.type, bytes, values);
    if (!values.every(Number.isFinite)) throw notFinite(tensor);
    return new SmallVector(tensor.name, values);
  }

  /** The form a matrix takes; throws FormatError for one that cannot be packed. */
  shapeOf(tensor: TensorData, options: UploadOptions & { bank: Bank }): PackedShape {
    const { name, rows, cols } = tensor;
    const type = this.#packedType(tensor.type, { cols, exact: options.exact === true });
    const { kernels } = options.bank;
    const kind = kernels.kernel_kind(TENSOR_TYPES[type].ggmlId);
    const byteLength = kernels.packed_bytes(kind, rows, cols);
    if (byteLength === 0) {
      const { blockValues } = TENSOR_TYPES[type];
      throw FormatError.of(`load ${name}`, "its row length", cols, `a multiple of ${blockValues}`);
    }
    return { type, kind, byteLength };
  }

  async matrix(
    tensor: TensorData,
    { bank, shape }: { bank: Bank; shape: PackedShape },
  ): Promise<WasmWeight> {
    const { name, rows, cols } = tensor;
    const { type, kind, byteLength } = shape;
    const address = bank.arena.allocate(byteLength, name);
    await this.packInto(tensor, { bank, shape, address });
    const descriptor = bank.arena.allocate(16, name);
    bank.kernels.describe_weight(descriptor, kind, rows, cols, address);
    return { name, rows, cols, type, byteLength, bank, kind, descriptor, vector: null };
  }

  /** Packs a matrix to `address`. Throws FormatError where a value is NaN or infinite. */
  async packInto(
    tensor: TensorData,
    { bank, shape, address }: { bank: Bank; shape: PackedShape; address: number },
  ): Promise<void> {
    const { rows, cols } = tensor;
    const { type, kind, byteLength } = shape;
    if (type !== tensor.type) this.conversions.push(`${tensor.name}: ${tensor.type} -> ${type}`);
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
      const staged = convert(tensor, { to: type, bytes: file, values: count * cols });
      const staging = this.#stage(bank, staged);
      const to = address + (row / GROUP_ROWS) * groupBytes;
      if (!bank.kernels.pack(kind, staging, count, cols, to)) throw notFinite(tensor);
    }
  }

  /** The type a tensor is kept in: its own where kernels read it, else one that holds its values. */
  #packedType(type: TensorType, options: { cols: number; exact: boolean }): TensorType {
    const { kernel } = TENSOR_TYPES[type];
    if (options.exact) return kernel === "float" ? type : "F32";
    if (kernel !== null) return type;
    return this.#activations === "f32" || options.cols % 32 !== 0 ? "F32" : "Q8_0";
  }

  #fileBytes(bytes: number): Uint8Array {
    if (this.#file.byteLength < bytes) this.#file = new Uint8Array(bytes);
    return this.#file.subarray(0, bytes);
  }

  #stage(bank: Bank, bytes: Uint8Array): number {
    let staging = this.#staging.get(bank);
    if (staging === undefined || staging.bytes < bytes.byteLength) {
      const size = Math.max(bytes.byteLength, STAGING_BYTES);
      const address = bank.kernels.allocate(size);
      if (address === 0) {
        throw new CapacityError(`cannot stage tensor rows: ${size} bytes are not to be had`);
      }
      staging = { address, bytes: size };
      this.#staging.set(bank, staging);
    }
    new Uint8Array(bank.memory.buffer, staging.address, bytes.byteLength).set(bytes);
    return staging.address;
  }
}

function notFinite(tensor: TensorData): FormatError {
  return FormatError.of(`load ${tensor.name}`, "one of its values", "NaN or infinite", "finite");
}

function convert(
  tensor: TensorData,
  { to, bytes, values }: { to: TensorType; bytes: Uint8Array; values: number },
): Uint8Array {
  if (tensor.type === to) return bytes;
  const floats = new Float32Array(values);
  dequantize(tensor.type, bytes, floats);
  if (!floats.every(Number.isFinite)) throw notFinite(tensor);
  return to === "Q8_0" ? quantizeQ8_0(floats) : new Uint8Array(floats.buffer);
}
