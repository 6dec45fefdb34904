/**
 * Small safetensors files as typed arrays, whole: golden results, test vectors, recorded logits.
 * Checkpoints are opened with openCheckpoint instead, which reads ranges.
 */

import { FormatError, UnsupportedOpError } from "../../errors.ts";
import { quoted } from "../byte_source.ts";
import { LENGTH_BYTES, parseSafetensorsHeader, readHeaderLength } from "./header.ts";

/** Element types by what holds them; F16 and BF16 stay bit patterns, bytes hold the 8-bit types. */
export interface ArrayTypes {
  F64: Float64Array;
  F32: Float32Array;
  F16: Uint16Array;
  BF16: Uint16Array;
  I64: BigInt64Array;
  U64: BigUint64Array;
  I32: Int32Array;
  U32: Uint32Array;
  I16: Int16Array;
  U16: Uint16Array;
  I8: Int8Array;
  U8: Uint8Array;
  BOOL: Uint8Array;
}

export type ArrayDtype = keyof ArrayTypes;

const CONSTRUCTORS: {
  readonly [D in ArrayDtype]: new (buffer: ArrayBuffer) => ArrayTypes[D];
} = Object.freeze({
  F64: Float64Array,
  F32: Float32Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I64: BigInt64Array,
  U64: BigUint64Array,
  I32: Int32Array,
  U32: Uint32Array,
  I16: Int16Array,
  U16: Uint16Array,
  I8: Int8Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
});

/** The tensors of a small safetensors file. */
export class SafetensorsArrays {
  readonly #tensors: ReadonlyMap<string, { dtype: string; shape: readonly number[]; at: number }>;
  readonly #lengths: ReadonlyMap<string, number>;
  readonly #bytes: Uint8Array;
  readonly #name: string;

  /** Checks the header as for a checkpoint; throws FormatError. */
  constructor(bytes: Uint8Array, name = "safetensors") {
    const file = { name, size: bytes.length };
    const length = readHeaderLength(bytes.subarray(0, LENGTH_BYTES), file);
    const header = parseSafetensorsHeader(
      bytes.subarray(LENGTH_BYTES, LENGTH_BYTES + length),
      file,
    );
    this.#bytes = bytes;
    this.#name = name;
    this.#tensors = new Map(
      header.tensors.map(({ name, dtype, shape, offset }) => [name, { dtype, shape, at: offset }]),
    );
    this.#lengths = new Map(header.tensors.map(({ name, byteLength }) => [name, byteLength]));
  }

  /** Names, in the header's order. */
  get names(): string[] {
    return [...this.#tensors.keys()];
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  dtype(name: string): string {
    return this.#tensor(name).dtype;
  }

  /** Outermost extent first. */
  shape(name: string): readonly number[] {
    return this.#tensor(name).shape;
  }

  /** A copy of the tensor's values, which must be of this element type. */
  get<D extends ArrayDtype>(name: string, dtype: D): ArrayTypes[D] {
    const tensor = this.#tensor(name);
    if (tensor.dtype !== dtype) {
      throw new UnsupportedOpError(
        `cannot read tensor ${quoted(name)}: its type is ${tensor.dtype}, must be ${dtype}`,
      );
    }
    const end = tensor.at + this.#lengths.get(name)!;
    // Copied, since the format does not align its data to the elements.
    const copy = new Uint8Array(this.#bytes.subarray(tensor.at, end));
    return new CONSTRUCTORS[dtype](copy.buffer);
  }

  #tensor(name: string): { dtype: string; shape: readonly number[]; at: number } {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) {
      throw FormatError.of(
        `read ${quoted(this.#name)}`,
        `tensor ${quoted(name)}`,
        "missing",
        "in the file",
      );
    }
    return tensor;
  }
}
