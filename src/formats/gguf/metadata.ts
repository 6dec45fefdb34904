/**
 * Values of a GGUF key-value section. Arrays keep their bytes and are decoded when asked for: a
 * vocabulary of 150,000 tokens costs a scan of its lengths, and strings only where they are used.
 */

import { FormatError } from "../../errors.ts";
import { MAX_GGUF_HEADER_BYTES, MAX_STRING_BYTES } from "../limits.ts";
import type { MetadataArray, MetadataValue } from "../tensor_source.ts";
import { decodeUtf8 } from "../utf8.ts";
import type { Cursor } from "./cursor.ts";

/** Value types by their number in the file. */
export const VALUE_TYPES = Object.freeze(
  [
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "float32",
    "bool",
    "string",
    "array",
    "uint64",
    "int64",
    "float64",
  ] as const,
);

export type ValueType = (typeof VALUE_TYPES)[number];
type FixedType = Exclude<ValueType, "string" | "array">;

/** Bytes of one value; 0 for those whose length is in the file. */
const VALUE_BYTES: Readonly<Record<ValueType, number>> = Object.freeze({
  uint8: 1,
  int8: 1,
  uint16: 2,
  int16: 2,
  uint32: 4,
  int32: 4,
  float32: 4,
  bool: 1,
  string: 0,
  array: 0,
  uint64: 8,
  int64: 8,
  float64: 8,
});

/** A key's value with the type the file declares (`array` for arrays of any element). */
export interface TypedValue {
  readonly type: ValueType;
  readonly value: MetadataValue;
}

/** Reads the type number and the value of key `what` (already quoted for messages). */
export function readValue(cursor: Cursor, what: string): TypedValue {
  const type = readType(cursor, `the type of ${what}`);
  if (type === "string") return { type, value: cursor.string(what, MAX_STRING_BYTES) };
  if (type === "array") return { type, value: readArray(cursor, what) };
  cursor.need(VALUE_BYTES[type], what);
  const position = cursor.position;
  cursor.position += VALUE_BYTES[type];
  if (type === "bool") checkBool(cursor, position, what);
  return { type, value: decodeFixed(cursor.view, type, position) };
}

function readType(cursor: Cursor, what: string): ValueType {
  const id = cursor.u32(what);
  if (id >= VALUE_TYPES.length) throw cursor.error(what, id, "from 0 to 12");
  return VALUE_TYPES[id];
}

function readArray(cursor: Cursor, what: string): MetadataArray {
  const type = readType(cursor, `the element type of ${what}`);
  if (type === "array") {
    throw cursor.error(`the element type of ${what}`, "array", "a number, bool or string");
  }
  const count = cursor.u64(`the element count of ${what}`, { maximum: MAX_GGUF_HEADER_BYTES });
  if (type === "string") return readStrings(cursor, { what, count });
  const byteLength = count * VALUE_BYTES[type];
  cursor.need(byteLength, what);
  const start = cursor.position;
  cursor.position += byteLength;
  if (type === "bool") {
    for (let i = start; i < cursor.position; i++) checkBool(cursor, i, what);
  }
  return new FixedArray(type, cursor.bytes.slice(start, cursor.position));
}

function readStrings(cursor: Cursor, array: { what: string; count: number }): StringArray {
  const { what, count } = array;
  // Every element has at least its length: that much must be there before the table is allocated.
  cursor.need(count * 8, what);
  const { view } = cursor;
  const windowEnd = cursor.bytes.length;
  const first = cursor.position;
  const starts = new Uint32Array(count + 1);
  let position = first;
  for (let i = 0; i < count; i++) {
    const end = position + 8;
    if (end > windowEnd) {
      cursor.position = position;
      cursor.need(8, `element ${i} of ${what}`);
    }
    const length = view.getUint32(position + 4, true) * 2 ** 32 + view.getUint32(position, true);
    if (length > MAX_STRING_BYTES || end + length > windowEnd) {
      cursor.position = position;
      cursor.u64(`the length of element ${i} of ${what}`, { maximum: MAX_STRING_BYTES });
      cursor.need(length, `element ${i} of ${what}`);
    }
    starts[i] = end - first;
    position = end + length;
  }
  starts[count] = position - first + 8;
  cursor.position = position;
  return new StringArray({
    bytes: cursor.bytes.slice(first, position),
    starts,
    action: cursor.action,
    what,
  });
}

function checkBool(cursor: Cursor, position: number, what: string): void {
  const byte = cursor.bytes[position];
  if (byte > 1) throw cursor.error(what, byte, "0 or 1 (a bool)");
}

function decodeFixed(view: DataView, type: FixedType, at: number): number | bigint | boolean {
  switch (type) {
    case "uint8":
      return view.getUint8(at);
    case "int8":
      return view.getInt8(at);
    case "uint16":
      return view.getUint16(at, true);
    case "int16":
      return view.getInt16(at, true);
    case "uint32":
      return view.getUint32(at, true);
    case "int32":
      return view.getInt32(at, true);
    case "float32":
      return view.getFloat32(at, true);
    case "bool":
      return view.getUint8(at) === 1;
    case "uint64":
      return numberIfSafe(view.getBigUint64(at, true));
    case "int64":
      return numberIfSafe(view.getBigInt64(at, true));
    case "float64":
      return view.getFloat64(at, true);
  }
}

function numberIfSafe(value: bigint): number | bigint {
  const asNumber = Number(value);
  return Number.isSafeInteger(asNumber) ? asNumber : value;
}

/** An array of fixed-size elements over the file's own bytes. */
class FixedArray implements MetadataArray {
  readonly length: number;
  readonly elementType: FixedType;
  readonly #view: DataView;

  constructor(type: FixedType, bytes: Uint8Array) {
    this.elementType = type;
    this.length = bytes.length / VALUE_BYTES[type];
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  at(index: number): number | bigint | boolean {
    checkIndex(index, this.length);
    return decodeFixed(this.#view, this.elementType, index * VALUE_BYTES[this.elementType]);
  }

  *[Symbol.iterator](): Iterator<number | bigint | boolean> {
    const bytes = VALUE_BYTES[this.elementType];
    for (let i = 0; i < this.length; i++) {
      yield decodeFixed(this.#view, this.elementType, i * bytes);
    }
  }
}

/** Elements decoded at once while iterating: one decoder call costs as much as some 50 letters. */
const CHUNK_STRINGS = 4096;

/** An array of strings over the file's own bytes: lengths (8 bytes each) and text in turn. */
class StringArray implements MetadataArray {
  readonly length: number;
  readonly elementType = "string";
  readonly #bytes: Uint8Array;
  /** Where each element's text begins; one more entry puts the last one's end at the same formula. */
  readonly #starts: Uint32Array;
  readonly #action: string;
  readonly #what: string;

  constructor(
    options: { bytes: Uint8Array; starts: Uint32Array; action: string; what: string },
  ) {
    this.length = options.starts.length - 1;
    this.#bytes = options.bytes;
    this.#starts = options.starts;
    this.#action = options.action;
    this.#what = options.what;
  }

  at(index: number): string {
    checkIndex(index, this.length);
    const bytes = this.#bytes.subarray(this.#starts[index], this.#starts[index + 1] - 8);
    const text = decodeUtf8(bytes);
    if (text === null) throw this.#notUtf8(`element ${index}`);
    return text;
  }

  writeUtf8(index: number, into: Uint8Array): number {
    checkIndex(index, this.length);
    const start = this.#starts[index];
    const length = this.#starts[index + 1] - 8 - start;
    if (length <= into.length) {
      for (let i = 0; i < length; i++) into[i] = this.#bytes[start + i];
    }
    return length;
  }

  *[Symbol.iterator](): Iterator<string> {
    for (let first = 0; first < this.length; first += CHUNK_STRINGS) {
      yield* this.#decodeChunk(first, Math.min(this.length, first + CHUNK_STRINGS));
    }
  }

  /** Decodes elements [first, last) with one decoder call and cuts the text at UTF-16 lengths. */
  #decodeChunk(first: number, last: number): string[] {
    const starts = this.#starts;
    const source = this.#bytes;
    const packed = new Uint8Array(starts[last] - starts[first]);
    const cuts = new Uint32Array(last - first);
    let filled = 0;
    let units = 0;
    for (let i = first; i < last; i++) {
      const end = starts[i + 1] - 8;
      // The rest of a sequence that an earlier element began: valid together, wrong apart.
      if (end > starts[i] && (source[starts[i]] & 0xc0) === 0x80) {
        throw this.#notUtf8(`element ${i}`);
      }
      for (let j = starts[i]; j < end; j++) {
        const byte = source[j];
        packed[filled++] = byte;
        // Continuation bytes add no UTF-16 unit, four-byte sequences add two.
        if ((byte & 0xc0) !== 0x80) units += byte >= 0xf0 ? 2 : 1;
      }
      cuts[i - first] = units;
    }
    const text = decodeUtf8(packed.subarray(0, filled));
    if (text === null) throw this.#notUtf8(`an element in ${first}..${last - 1}`);
    const out = new Array<string>(last - first);
    let begin = 0;
    for (let i = 0; i < out.length; i++) {
      out[i] = text.slice(begin, cuts[i]);
      begin = cuts[i];
    }
    return out;
  }

  #notUtf8(which: string): FormatError {
    return FormatError.of(this.#action, `${which} of ${this.#what}`, "not UTF-8", "valid UTF-8");
  }
}

function checkIndex(index: number, length: number): void {
  if (!Number.isInteger(index) || index < 0 || index >= length) {
    throw new RangeError(`index is ${index}, must be from 0 to ${length - 1}`);
  }
}
