/**
 * The header of a GGUF v2 or v3 file: key-values and tensor descriptions, read synchronously from a
 * window of the file's first bytes. Owns every check that one file's header allows; what the keys
 * mean for an architecture is not known here.
 */

import type { FormatError } from "../../errors.ts";
import { TENSOR_TYPES, type TensorType, tensorTypeOfGgmlId } from "../../quant/types.ts";
import { quoted } from "../byte_source.ts";
import {
  MAX_GGUF_TENSOR_NAME_BYTES,
  MAX_KEY_BYTES,
  MAX_METADATA_KEYS,
  MAX_TENSORS,
} from "../limits.ts";
import { checkTiling } from "../tiling.ts";
import { Cursor } from "./cursor.ts";
import { readValue, type TypedValue } from "./metadata.ts";

/** "GGUF" read as a little-endian uint32. */
export const GGUF_MAGIC = 0x46554747;

const DEFAULT_ALIGNMENT = 32;
/** Published files use 32; page sizes reach 64 KiB, huge pages 2 MiB. */
const MAX_ALIGNMENT = 2 * 1024 * 1024;
const MAX_DIMENSIONS = 4;

/** Smallest encodings, which bound how many entries the rest of a file can hold. */
const MIN_KEY_VALUE_BYTES = 8 + 1 + 4 + 1;
const MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8;

/** Element types of GGUF that hold data but no weights, by their number. */
const OTHER_TYPES: ReadonlyMap<number, { readonly name: string; readonly bytes: number }> = new Map(
  [
    [24, { name: "I8", bytes: 1 }],
    [25, { name: "I16", bytes: 2 }],
    [26, { name: "I32", bytes: 4 }],
    [27, { name: "I64", bytes: 8 }],
    [28, { name: "F64", bytes: 8 }],
  ],
);

/** One tensor description, with everything that one description allows to be checked, checked. */
export interface GgufTensor {
  readonly name: string;
  /** A weight type, or the name of a type that cannot be a weight. */
  readonly type: TensorType | string;
  /** The type's number in the file. */
  readonly typeId: number;
  readonly isWeight: boolean;
  /** Outermost extent first: the file's `ne`, reversed. */
  readonly shape: readonly number[];
  readonly byteLength: number;
  /** From the start of the data section. */
  readonly offset: number;
}

export interface GgufHeader {
  readonly version: number;
  readonly metadata: ReadonlyMap<string, TypedValue>;
  readonly tensors: readonly GgufTensor[];
  /** File offset of the data section. */
  readonly dataStart: number;
}

/**
 * Parses a header. `window` holds the file's first bytes, all of it or a part; throws WindowTooSmall
 * where a part does not suffice and FormatError where the file is wrong.
 */
export function parseGgufHeader(
  window: Uint8Array,
  file: { readonly name: string; readonly size: number },
): GgufHeader {
  const cursor = new Cursor(window, {
    fileSize: file.size,
    action: `read GGUF ${quoted(file.name)}`,
  });
  const version = readVersion(cursor);
  const tensorCount = readCount(cursor, {
    what: "the tensor count",
    maximum: MAX_TENSORS,
    entryBytes: MIN_TENSOR_BYTES,
  });
  const keyCount = readCount(cursor, {
    what: "the key count",
    maximum: MAX_METADATA_KEYS,
    entryBytes: MIN_KEY_VALUE_BYTES,
  });
  const metadata = readMetadata(cursor, keyCount);
  const alignment = readAlignment(cursor, metadata);
  const tensors = readTensors(cursor, { count: tensorCount, alignment });
  const dataStart = alignUp(cursor.position, alignment);
  checkData(cursor, { tensors, dataStart, alignment });
  return { version, metadata, tensors, dataStart };
}

function readVersion(cursor: Cursor): number {
  const magic = cursor.u32("the magic number");
  if (magic !== GGUF_MAGIC) {
    throw cursor.error("the magic number", hex(magic), `${hex(GGUF_MAGIC)} ("GGUF")`);
  }
  const version = cursor.u32("the version");
  if (version !== 2 && version !== 3) {
    const is = (version & 0xffff) === 0 && version !== 0 ? `${hex(version)} (big-endian)` : version;
    throw cursor.error("the version", is, "2 or 3, little-endian");
  }
  return version;
}

/** A count that is both plausible in itself and in what the rest of the file could hold. */
function readCount(
  cursor: Cursor,
  entry: { what: string; maximum: number; entryBytes: number },
): number {
  const count = cursor.u64(entry.what, { maximum: entry.maximum });
  const room = Math.floor((cursor.fileSize - cursor.position) / entry.entryBytes);
  if (count > room) {
    throw cursor.error(entry.what, count, `at most ${room} in a file of ${cursor.fileSize} bytes`);
  }
  return count;
}

function readMetadata(cursor: Cursor, count: number): Map<string, TypedValue> {
  const metadata = new Map<string, TypedValue>();
  for (let i = 0; i < count; i++) {
    const key = readName(cursor, { what: `key ${i}`, maximum: MAX_KEY_BYTES });
    const what = `key ${quoted(key)}`;
    if (metadata.has(key)) throw cursor.error(what, "there twice", "unique");
    metadata.set(key, readValue(cursor, what));
  }
  return metadata;
}

/** A key or tensor name: not empty, and free of control characters (it will be printed). */
function readName(cursor: Cursor, entry: { what: string; maximum: number }): string {
  const name = cursor.string(`the name of ${entry.what}`, entry.maximum);
  if (name.length === 0) throw cursor.error(`the name of ${entry.what}`, "empty", "a name");
  for (let i = 0; i < name.length; i++) {
    const code = name.charCodeAt(i);
    if (code < 0x20 || code === 0x7f) {
      throw cursor.error(`the name of ${entry.what}`, quoted(name), "free of control characters");
    }
  }
  return name;
}

function readAlignment(cursor: Cursor, metadata: ReadonlyMap<string, TypedValue>): number {
  const entry = metadata.get("general.alignment");
  if (entry === undefined) return DEFAULT_ALIGNMENT;
  const { type, value } = entry;
  const what = `key "general.alignment"`;
  if (type !== "uint32") throw cursor.error(what, `of type ${type}`, "of type uint32");
  const alignment = value as number;
  const powerOfTwo = alignment !== 0 && (alignment & (alignment - 1)) === 0;
  if (!powerOfTwo || alignment < 8 || alignment > MAX_ALIGNMENT) {
    throw cursor.error(what, alignment, `a power of two from 8 to ${MAX_ALIGNMENT}`);
  }
  return alignment;
}

function readTensors(
  cursor: Cursor,
  options: { count: number; alignment: number },
): GgufTensor[] {
  const tensors: GgufTensor[] = [];
  const names = new Set<string>();
  for (let i = 0; i < options.count; i++) {
    const tensor = readTensor(cursor, { index: i, alignment: options.alignment });
    if (names.has(tensor.name)) {
      throw cursor.error(`tensor ${quoted(tensor.name)}`, "there twice", "unique");
    }
    names.add(tensor.name);
    tensors.push(tensor);
  }
  return tensors;
}

function readTensor(cursor: Cursor, options: { index: number; alignment: number }): GgufTensor {
  const name = readName(cursor, {
    what: `tensor ${options.index}`,
    maximum: MAX_GGUF_TENSOR_NAME_BYTES,
  });
  const what = `tensor ${quoted(name)}`;
  const shape = readShape(cursor, what);
  const typeId = cursor.u32(`the type of ${what}`);
  const geometry = geometryOf(typeId);
  if (geometry === undefined) {
    throw cursor.error(`the type of ${what}`, typeId, "a tensor type of GGUF");
  }
  const row = shape[shape.length - 1];
  if (row % geometry.blockValues !== 0) {
    throw cursor.error(
      `the row length of ${what}`,
      row,
      `a multiple of ${geometry.blockValues} (${geometry.name})`,
    );
  }
  const blocks = shape.reduce((product, extent) => product * extent, 1) / geometry.blockValues;
  const byteLength = blocks * geometry.blockBytes;
  if (byteLength > cursor.fileSize) {
    throw cursor.error(`the size of ${what}`, byteLength, `at most the file's ${cursor.fileSize}`);
  }
  const offset = cursor.u64(`the offset of ${what}`, { maximum: cursor.fileSize });
  if (offset % options.alignment !== 0) {
    throw cursor.error(`the offset of ${what}`, offset, `a multiple of ${options.alignment}`);
  }
  const { name: type, isWeight } = geometry;
  return { name, type, typeId, isWeight, shape, byteLength, offset };
}

/** Extents, outermost first; their product is a safe integer. */
function readShape(cursor: Cursor, what: string): number[] {
  const dimensions = cursor.u32(`the dimension count of ${what}`);
  if (dimensions < 1 || dimensions > MAX_DIMENSIONS) {
    throw cursor.error(`the dimension count of ${what}`, dimensions, `from 1 to ${MAX_DIMENSIONS}`);
  }
  const shape = new Array<number>(dimensions);
  let values = 1;
  for (let i = 0; i < dimensions; i++) {
    // No type spends less than one byte on 16 values, so that a file bounds its extents.
    const room = Math.min(Number.MAX_SAFE_INTEGER, cursor.fileSize * 16);
    const extent = cursor.u64(`extent ${i} of ${what}`, { minimum: 1, maximum: room });
    values *= extent;
    if (values > room) throw cursor.error(`the value count of ${what}`, values, `at most ${room}`);
    shape[dimensions - 1 - i] = extent;
  }
  return shape;
}

function geometryOf(
  typeId: number,
): { name: string; isWeight: boolean; blockValues: number; blockBytes: number } | undefined {
  const type = tensorTypeOfGgmlId(typeId);
  if (type !== undefined) {
    const { blockValues, blockBytes } = TENSOR_TYPES[type];
    return { name: type, isWeight: true, blockValues, blockBytes };
  }
  const other = OTHER_TYPES.get(typeId);
  if (other === undefined) return undefined;
  return { name: other.name, isWeight: false, blockValues: 1, blockBytes: other.bytes };
}

/** Tensors must fill the data section in some order, with padding to the alignment between them. */
function checkData(
  cursor: Cursor,
  data: { tensors: readonly GgufTensor[]; dataStart: number; alignment: number },
): void {
  const { tensors, dataStart, alignment } = data;
  // A file without tensors (a vocabulary) may end without the padding.
  const size = Math.max(0, cursor.fileSize - dataStart);
  checkTiling(
    tensors.map(({ name, offset, byteLength }) => ({
      name,
      start: offset,
      end: offset + byteLength,
    })),
    {
      size,
      alignment,
      error: (what, is, must): FormatError => cursor.error(what, is, must),
    },
  );
}

function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}

function hex(value: number): string {
  return `0x${value.toString(16).padStart(8, "0")}`;
}
