/**
 * Writes GGUF v3 files: the header at once, then the tensors' bytes in the declared order, as they come.
 * Nothing is held but the header. What it writes, the reader beside it accepts.
 */

import { FormatError } from "../../errors.ts";
import { quoted } from "../byte_source.ts";
import {
  MAX_GGUF_HEADER_BYTES,
  MAX_GGUF_TENSOR_NAME_BYTES,
  MAX_KEY_BYTES,
  MAX_TENSORS,
} from "../limits.ts";
import type { ByteSink } from "../safetensors/writer.ts";
import type { MetadataArray, MetadataValue } from "../tensor_source.ts";
import { GGUF_MAGIC } from "./header.ts";
import { type TypedValue, VALUE_TYPES, type ValueType } from "./metadata.ts";

/** A tensor that will follow the header. */
export interface GgufDeclaration {
  readonly name: string;
  /** The element type's number in the format. */
  readonly typeId: number;
  /** Outermost extent first. */
  readonly shape: readonly number[];
  readonly byteLength: number;
}

export interface GgufContent {
  readonly metadata: ReadonlyMap<string, TypedValue>;
  readonly tensors: readonly GgufDeclaration[];
}

/** An array as the reader gives it, with the type that its elements have in the file. */
interface StoredArray extends MetadataArray {
  readonly elementType?: Exclude<ValueType, "array">;
}

type NumberType = Exclude<ValueType, "array" | "string" | "bool">;

const NUMBER_BYTES: Readonly<Record<NumberType, number>> = Object.freeze({
  uint8: 1,
  int8: 1,
  uint16: 2,
  int16: 2,
  uint32: 4,
  int32: 4,
  float32: 4,
  uint64: 8,
  int64: 8,
  float64: 8,
});

const VERSION = 3;
const ACTION = "write GGUF";
const DEFAULT_ALIGNMENT = 32;

export class GgufWriter {
  readonly #sink: ByteSink;
  readonly #tensors: readonly GgufDeclaration[];
  readonly #alignment: number;
  #current = 0;
  #bytesLeft: number;

  /** Writes the header. Throws FormatError for what the format, or its reader here, does not allow. */
  constructor(content: GgufContent, sink: ByteSink) {
    this.#sink = sink;
    this.#tensors = content.tensors;
    this.#alignment = alignmentOf(content.metadata);
    sink.write(encodeHeader(content, this.#alignment));
    this.#bytesLeft = content.tensors[0]?.byteLength ?? 0;
  }

  /** Appends bytes to the current tensor; a piece must not reach into the next one. */
  write(bytes: Uint8Array): void {
    const tensor = this.#tensors[this.#current];
    if (bytes.length > this.#bytesLeft) {
      throw FormatError.of(
        ACTION,
        tensor === undefined
          ? "a piece after the last tensor"
          : `a piece of ${quoted(tensor.name)}`,
        `${bytes.length} bytes long`,
        `at most ${this.#bytesLeft}`,
      );
    }
    this.#sink.write(bytes);
    this.#bytesLeft -= bytes.length;
    if (tensor === undefined || this.#bytesLeft > 0) return;
    const padding = alignUp(tensor.byteLength, this.#alignment) - tensor.byteLength;
    if (padding > 0) this.#sink.write(new Uint8Array(padding));
    this.#bytesLeft = this.#tensors[++this.#current]?.byteLength ?? 0;
  }

  /** Throws FormatError unless every declared tensor is complete. */
  finish(): void {
    const tensor = this.#tensors[this.#current];
    if (tensor === undefined) return;
    throw FormatError.of(
      ACTION,
      `tensor ${quoted(tensor.name)}`,
      `${this.#bytesLeft} bytes short`,
      "complete",
    );
  }
}

function alignmentOf(metadata: GgufContent["metadata"]): number {
  const value = metadata.get("general.alignment")?.value ?? DEFAULT_ALIGNMENT;
  if (typeof value === "number" && value >= 8 && Number.isInteger(Math.log2(value))) return value;
  throw FormatError.of(ACTION, `key "general.alignment"`, value, "a power of two from 8 on");
}

function encodeHeader({ metadata, tensors }: GgufContent, alignment: number): Uint8Array {
  if (tensors.length > MAX_TENSORS) {
    throw FormatError.of(ACTION, "the tensor count", tensors.length, `at most ${MAX_TENSORS}`);
  }
  const out = new Encoder();
  out.u32(GGUF_MAGIC);
  out.u32(VERSION);
  out.u64(tensors.length);
  out.u64(metadata.size);
  for (const [key, value] of metadata) {
    out.text(key, { what: "a key", maximum: MAX_KEY_BYTES });
    out.typed(value, key);
  }
  const names = new Set<string>();
  let offset = 0;
  for (const { name, typeId, shape, byteLength } of tensors) {
    if (names.has(name) || name === "") {
      throw FormatError.of(ACTION, "a tensor's name", quoted(name), "unique and not empty");
    }
    if (byteLength < 1 || !Number.isSafeInteger(byteLength)) {
      throw FormatError.of(ACTION, `the size of ${quoted(name)}`, byteLength, "bytes");
    }
    names.add(name);
    out.text(name, { what: "a tensor's name", maximum: MAX_GGUF_TENSOR_NAME_BYTES });
    out.u32(shape.length);
    for (const extent of shape.toReversed()) out.u64(extent);
    out.u32(typeId);
    out.u64(offset);
    offset = alignUp(offset + byteLength, alignment);
  }
  out.pad(alignment);
  const header = out.bytes();
  if (header.length <= MAX_GGUF_HEADER_BYTES) return header;
  throw FormatError.of(
    ACTION,
    "the header",
    `${header.length} bytes`,
    `at most ${MAX_GGUF_HEADER_BYTES}`,
  );
}

/** Little-endian values in a buffer that grows. */
class Encoder {
  #buffer = new Uint8Array(1 << 16);
  #view = new DataView(this.#buffer.buffer);
  #length = 0;

  bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.#length);
  }

  u32(value: number): void {
    const at = this.#room(4);
    this.#view.setUint32(at, value, true);
  }

  u64(value: number): void {
    const at = this.#room(8);
    this.#view.setBigUint64(at, BigInt(value), true);
  }

  pad(alignment: number): void {
    this.#room(alignUp(this.#length, alignment) - this.#length);
  }

  /** A string with its length. */
  text(text: string, limit: { what: string; maximum: number }): void {
    const bytes = new TextEncoder().encode(text);
    if (bytes.length > limit.maximum) {
      throw FormatError.of(
        ACTION,
        limit.what,
        `${bytes.length} bytes (${quoted(text)})`,
        `at most ${limit.maximum}`,
      );
    }
    this.#string(bytes);
  }

  /** A value after its type. */
  typed({ type, value }: TypedValue, key: string): void {
    this.u32(VALUE_TYPES.indexOf(type));
    if (type === "array") this.#array(value as StoredArray, key);
    else this.#scalar(type, value, key);
  }

  #array(array: StoredArray, key: string): void {
    const { elementType } = array;
    if (elementType === undefined) {
      throw FormatError.of(ACTION, `key ${quoted(key)}`, "an array of unknown elements", "typed");
    }
    this.u32(VALUE_TYPES.indexOf(elementType));
    this.u64(array.length);
    let scratch = new Uint8Array(1024);
    for (let i = 0; i < array.length; i++) {
      if (array.writeUtf8 === undefined) this.#scalar(elementType, array.at(i), key);
      else {
        // The file's own bytes: not every vocabulary's strings are UTF-8.
        const length = array.writeUtf8(i, scratch);
        if (length > scratch.length) {
          scratch = new Uint8Array(length);
          array.writeUtf8(i, scratch);
        }
        this.#string(scratch.subarray(0, length));
      }
    }
  }

  #scalar(type: Exclude<ValueType, "array">, value: MetadataValue, key: string): void {
    if (type === "string" && typeof value === "string") {
      return this.#string(new TextEncoder().encode(value));
    }
    if (type === "bool" && typeof value === "boolean") return this.#number("uint8", value ? 1 : 0);
    if (type !== "string" && type !== "bool") {
      if (typeof value === "number" || typeof value === "bigint") return this.#number(type, value);
    }
    throw FormatError.of(ACTION, `key ${quoted(key)}`, `a ${typeof value}`, `of type ${type}`);
  }

  #number(type: NumberType, value: number | bigint): void {
    const at = this.#room(NUMBER_BYTES[type]);
    const view = this.#view;
    switch (type) {
      case "uint8":
      case "int8":
        return view.setUint8(at, Number(value));
      case "uint16":
      case "int16":
        return view.setUint16(at, Number(value), true);
      case "uint32":
      case "int32":
        return view.setUint32(at, Number(value), true);
      case "float32":
        return view.setFloat32(at, Number(value), true);
      case "float64":
        return view.setFloat64(at, Number(value), true);
      case "uint64":
      case "int64":
        return view.setBigUint64(at, BigInt.asUintN(64, BigInt(value)), true);
    }
  }

  #string(bytes: Uint8Array): void {
    this.u64(bytes.length);
    const at = this.#room(bytes.length);
    this.#buffer.set(bytes, at);
  }

  /** Where the next `bytes` bytes go; they are zero. */
  #room(bytes: number): number {
    const at = this.#length;
    this.#length += bytes;
    if (this.#length > this.#buffer.length) {
      const larger = new Uint8Array(Math.max(this.#length, this.#buffer.length * 2));
      larger.set(this.#buffer);
      this.#buffer = larger;
      this.#view = new DataView(larger.buffer);
    }
    return at;
  }
}

function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}
