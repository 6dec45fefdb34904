/**
 * The header of a safetensors file: eight bytes of length, then JSON that names each tensor's type,
 * shape and place. Owns every check that the header and the file's size allow.
 */

import { FormatError } from "../../errors.ts";
import type { TensorType } from "../../quant/types.ts";
import { quoted } from "../byte_source.ts";
import { type JsonValue, parseStrictJson } from "../json.ts";
import { MAX_SAFETENSORS_HEADER_BYTES, MAX_STRING_BYTES, MAX_TENSORS } from "../limits.ts";
import { checkTiling } from "../tiling.ts";
import { decodeUtf8 } from "../utf8.ts";
import { DTYPES } from "./dtypes.ts";

/** Bytes before the JSON. */
export const LENGTH_BYTES = 8;

/** No type in use has more extents; PyTorch allows 64. */
const MAX_DIMENSIONS = 16;
/** The deepest legal header: the header, a tensor, its shape. */
const MAX_HEADER_DEPTH = 3;

export interface SafetensorsTensor {
  readonly name: string;
  /** The type's name in the file. */
  readonly dtype: string;
  /** The weight type it is, or null where it cannot be a weight. */
  readonly weight: TensorType | null;
  readonly shape: readonly number[];
  readonly byteLength: number;
  /** From the start of the file. */
  readonly offset: number;
}

export interface SafetensorsHeader {
  readonly tensors: readonly SafetensorsTensor[];
  /** The `__metadata__` entry; empty where there is none. */
  readonly metadata: ReadonlyMap<string, string>;
}

interface FileFacts {
  readonly name: string;
  readonly size: number;
}

/** Reads the JSON's length from the file's first eight bytes and checks it against the file. */
export function readHeaderLength(first: Uint8Array, file: FileFacts): number {
  if (file.size < LENGTH_BYTES || first.length < LENGTH_BYTES) {
    throw failure(file, "the file", `${file.size} bytes long`, `at least ${LENGTH_BYTES}`);
  }
  const view = new DataView(first.buffer, first.byteOffset, first.byteLength);
  const length = view.getBigUint64(0, true);
  const most = Math.min(MAX_SAFETENSORS_HEADER_BYTES, file.size - LENGTH_BYTES);
  if (length < 2n || length > BigInt(most)) {
    throw failure(file, "the header's length", length, `from 2 to ${most}`);
  }
  return Number(length);
}

/** Parses the header from its JSON bytes; `json` is all that the length covers. */
export function parseSafetensorsHeader(json: Uint8Array, file: FileFacts): SafetensorsHeader {
  // The format wants the first byte to be a brace, so that other files are told apart at once.
  if (json[0] !== 0x7b) {
    throw failure(file, "the header's first byte", `0x${json[0].toString(16)}`, `0x7b ("{")`);
  }
  const text = decodeUtf8(json);
  if (text === null) throw failure(file, "the header", "not UTF-8", "valid UTF-8");
  const root = parseStrictJson(text, { action: actionOn(file), maxDepth: MAX_HEADER_DEPTH });
  const entries = root as ReadonlyMap<string, JsonValue>;
  if (entries.size > MAX_TENSORS) {
    throw failure(file, "the number of tensors", entries.size, `at most ${MAX_TENSORS}`);
  }
  const dataStart = LENGTH_BYTES + json.length;
  const tensors: SafetensorsTensor[] = [];
  let metadata: ReadonlyMap<string, string> = new Map();
  for (const [name, value] of entries) {
    if (name === "__metadata__") metadata = checkMetadata(value, file);
    else tensors.push(readTensor(value, { name, file, dataStart }));
  }
  checkTiling(
    tensors.map(({ name, offset, byteLength }) => ({
      name,
      start: offset - dataStart,
      end: offset - dataStart + byteLength,
    })),
    {
      size: file.size - dataStart,
      alignment: 1,
      error: (what, is, must) => failure(file, what, is, must),
    },
  );
  return { tensors, metadata };
}

function readTensor(
  value: JsonValue,
  context: { name: string; file: FileFacts; dataStart: number },
): SafetensorsTensor {
  const { name, file, dataStart } = context;
  const what = `tensor ${quoted(name)}`;
  checkName(name, file);
  if (!(value instanceof Map)) throw failure(file, what, kindOf(value), "an object");
  const entry = value as ReadonlyMap<string, JsonValue>;
  for (const key of entry.keys()) {
    if (key !== "dtype" && key !== "shape" && key !== "data_offsets") {
      throw failure(file, `a key of ${what}`, quoted(key), "dtype, shape or data_offsets");
    }
  }
  const dtype = entry.get("dtype");
  const info = typeof dtype === "string" ? DTYPES.get(dtype) : undefined;
  if (info === undefined) {
    throw failure(
      file,
      `the dtype of ${what}`,
      typeof dtype === "string" ? quoted(dtype) : kindOf(dtype),
      `one of ${[...DTYPES.keys()].join(", ")}`,
    );
  }
  const shape = readShape(entry.get("shape"), { what, file });
  const bits = shape.reduce((product, extent) => product * BigInt(extent), BigInt(info.bits));
  if (bits % 8n !== 0n) throw failure(file, `the size of ${what}`, `${bits} bits`, "whole bytes");
  const byteLength = bits / 8n;
  const [begin, end] = readOffsets(entry.get("data_offsets"), { what, file, dataStart });
  if (BigInt(end - begin) !== byteLength) {
    throw failure(
      file,
      `the range of ${what}`,
      `${begin}..${end} (${end - begin} bytes)`,
      `${byteLength} bytes (${dtype} [${shape.join(", ")}])`,
    );
  }
  return {
    name,
    dtype: dtype as string,
    weight: info.weight ?? null,
    shape,
    byteLength: end - begin,
    offset: dataStart + begin,
  };
}

function checkName(name: string, file: FileFacts): void {
  if (name.length === 0) throw failure(file, "a tensor's name", "empty", "a name");
  for (let i = 0; i < name.length; i++) {
    const code = name.charCodeAt(i);
    if (code < 0x20 || code === 0x7f) {
      throw failure(file, "a tensor's name", quoted(name), "free of control characters");
    }
  }
}

function readShape(
  value: JsonValue | undefined,
  context: { what: string; file: FileFacts },
): number[] {
  const { what, file } = context;
  if (!Array.isArray(value)) throw failure(file, `the shape of ${what}`, kindOf(value), "an array");
  if (value.length > MAX_DIMENSIONS) {
    throw failure(file, `the shape of ${what}`, `${value.length} long`, `<= ${MAX_DIMENSIONS}`);
  }
  return value.map((extent: JsonValue, i: number) => {
    if (!isCount(extent)) {
      throw failure(file, `extent ${i} of ${what}`, show(extent), "a whole number below 2^53");
    }
    return extent;
  });
}

/** The two offsets, in order and within the data section. */
function readOffsets(
  value: JsonValue | undefined,
  context: { what: string; file: FileFacts; dataStart: number },
): [number, number] {
  const { what, file, dataStart } = context;
  if (!Array.isArray(value) || value.length !== 2 || !value.every(isCount)) {
    throw failure(file, `the data_offsets of ${what}`, show(value), "two whole numbers");
  }
  const [begin, end] = value as unknown as [number, number];
  const size = file.size - dataStart;
  if (begin > end || end > size) {
    throw failure(file, `the data_offsets of ${what}`, `${begin}..${end}`, `within 0..${size}`);
  }
  return [begin, end];
}

function checkMetadata(value: JsonValue, file: FileFacts): ReadonlyMap<string, string> {
  if (!(value instanceof Map)) throw failure(file, "__metadata__", kindOf(value), "an object");
  const metadata = value as ReadonlyMap<string, JsonValue>;
  for (const [key, item] of metadata) {
    if (typeof item !== "string" || item.length > MAX_STRING_BYTES) {
      throw failure(file, `__metadata__ key ${quoted(key)}`, kindOf(item), "a string");
    }
  }
  return metadata as ReadonlyMap<string, string>;
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 &&
    !Object.is(value, -0);
}

function kindOf(value: JsonValue | undefined): string {
  if (value === undefined) return "missing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  return value instanceof Map ? "an object" : `a ${typeof value}`;
}

/** A wrong value for a message: numbers as they are, arrays of them too, the rest by kind. */
function show(value: JsonValue | undefined): string {
  if (typeof value === "number" || typeof value === "bigint") return String(value);
  if (Array.isArray(value) && value.length <= 4) return `[${value.map(show).join(", ")}]`;
  return kindOf(value);
}

function actionOn(file: FileFacts): string {
  return `read safetensors ${quoted(file.name)}`;
}

function failure(file: FileFacts, what: string, is: unknown, must: string): FormatError {
  return FormatError.of(actionOn(file), what, is, must);
}
