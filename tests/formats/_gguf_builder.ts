/** Makes small GGUF files, honest ones and ones that lie where told to. */

import { VALUE_TYPES, type ValueType } from "../../src/formats/gguf/metadata.ts";

export type KeyValue =
  | { key: string; type: Exclude<ValueType, "array">; value: number | bigint | boolean | string }
  | {
    key: string;
    type: "array";
    elementType: ValueType;
    value: readonly (number | bigint | boolean | string)[];
    /** Written instead of the number of elements. */
    count?: bigint;
  };

export interface TensorSpec {
  readonly name: string;
  /** As in the file: row length first. */
  readonly ne: readonly (number | bigint)[];
  readonly typeId: number;
  /** Bytes of data. */
  readonly byteLength: number;
  /** Written instead of the true offset. */
  readonly offset?: bigint;
  /** Written instead of the number of extents. */
  readonly dimensions?: number;
}

export interface GgufSpec {
  readonly magic?: string;
  readonly version?: number;
  readonly keyValues?: readonly KeyValue[];
  readonly tensors?: readonly TensorSpec[];
  readonly tensorCount?: bigint;
  readonly keyCount?: bigint;
  /** What offsets and the data section are aligned to. */
  readonly alignment?: number;
  /** Bytes after the last tensor's padding. */
  readonly trailing?: number;
  /** Leaves out the padding after the last tensor. */
  readonly unpadded?: boolean;
}

/** Appends little-endian values. */
export class ByteWriter {
  #bytes: number[] = [];

  get length(): number {
    return this.#bytes.length;
  }

  raw(bytes: Iterable<number>): this {
    for (const byte of bytes) this.#bytes.push(byte);
    return this;
  }

  u32(value: number): this {
    return this.raw(new Uint8Array(new Uint32Array([value]).buffer));
  }

  u64(value: bigint | number): this {
    return this.raw(new Uint8Array(new BigUint64Array([BigInt(value)]).buffer));
  }

  string(text: string): this {
    const bytes = new TextEncoder().encode(text);
    return this.u64(bytes.length).raw(bytes);
  }

  align(alignment: number): this {
    while (this.length % alignment !== 0) this.#bytes.push(0);
    return this;
  }

  toBytes(): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#bytes);
  }
}

export function buildGguf(spec: GgufSpec): Uint8Array<ArrayBuffer> {
  const { keyValues = [], tensors = [], alignment = 32 } = spec;
  const out = new ByteWriter().raw(new TextEncoder().encode(spec.magic ?? "GGUF"));
  out.u32(spec.version ?? 3);
  out.u64(spec.tensorCount ?? tensors.length).u64(spec.keyCount ?? keyValues.length);
  for (const entry of keyValues) {
    out.string(entry.key).u32(VALUE_TYPES.indexOf(entry.type));
    if (entry.type === "array") {
      out.u32(VALUE_TYPES.indexOf(entry.elementType)).u64(entry.count ?? entry.value.length);
      for (const item of entry.value) writeScalar(out, entry.elementType, item);
    } else writeScalar(out, entry.type, entry.value);
  }
  let offset = 0;
  const padded = (length: number) => Math.ceil(length / alignment) * alignment;
  for (const tensor of tensors) {
    out.string(tensor.name).u32(tensor.dimensions ?? tensor.ne.length);
    for (const extent of tensor.ne) out.u64(extent);
    out.u32(tensor.typeId).u64(tensor.offset ?? offset);
    offset += padded(tensor.byteLength);
  }
  out.align(alignment);
  tensors.forEach((tensor, index) => {
    out.raw(new Uint8Array(tensor.byteLength).map((_, i) => index * 16 + (i % 13)));
    if (spec.unpadded !== true || index < tensors.length - 1) out.align(alignment);
  });
  return out.raw(new Uint8Array(spec.trailing ?? 0)).toBytes();
}

function writeScalar(
  out: ByteWriter,
  type: ValueType,
  value: number | bigint | boolean | string,
): void {
  if (type === "string") {
    out.string(value as string);
    return;
  }
  const view = new DataView(new ArrayBuffer(8));
  const bytes = writeNumber(view, type, value);
  out.raw(new Uint8Array(view.buffer, 0, bytes));
}

/** Writes into the view's beginning and returns how many bytes. */
function writeNumber(
  view: DataView,
  type: ValueType,
  value: number | bigint | boolean | string,
): number {
  const number = Number(value);
  switch (type) {
    case "uint8":
    case "bool":
      view.setUint8(0, number);
      return 1;
    case "int8":
      view.setInt8(0, number);
      return 1;
    case "uint16":
      view.setUint16(0, number, true);
      return 2;
    case "int16":
      view.setInt16(0, number, true);
      return 2;
    case "uint32":
      view.setUint32(0, number, true);
      return 4;
    case "int32":
      view.setInt32(0, number, true);
      return 4;
    case "float32":
      view.setFloat32(0, number, true);
      return 4;
    case "uint64":
      view.setBigUint64(0, BigInt(value), true);
      return 8;
    case "int64":
      view.setBigInt64(0, BigInt(value), true);
      return 8;
    case "float64":
      view.setFloat64(0, number, true);
      return 8;
    default:
      throw new Error(`no scalar of type ${type}`);
  }
}

/** A small honest file: a vocabulary, hyper-parameters and three tensors of three types. */
export const HONEST: GgufSpec = Object.freeze(
  {
    keyValues: [
      { key: "general.architecture", type: "string", value: "llama" },
      { key: "llama.block_count", type: "uint32", value: 1 },
      { key: "llama.embedding_length", type: "uint32", value: 64 },
      { key: "llama.rope.freq_base", type: "float32", value: 10000 },
      {
        key: "tokenizer.ggml.tokens",
        type: "array",
        elementType: "string",
        value: ["a", "", "é", "日本", "😀", "e\u0301"],
      },
      { key: "tokenizer.ggml.token_type", type: "array", elementType: "int32", value: [1, 3, -1] },
    ],
    tensors: [
      { name: "token_embd.weight", ne: [64, 6], typeId: 8, byteLength: 408 },
      { name: "blk.0.attn_norm.weight", ne: [64], typeId: 0, byteLength: 256 },
      { name: "blk.0.ffn_up.weight", ne: [64, 3, 2], typeId: 1, byteLength: 768 },
    ],
  } as const,
);
