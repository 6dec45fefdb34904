/** GGUF files as a TensorSource: one file, or the parts that `gguf-split` makes. */

import { FormatError } from "../../errors.ts";
import type { TensorType } from "../../quant/types.ts";
import { baseName, quoted } from "../byte_source.ts";
import { CheckpointSource, type StoredTensor } from "../checkpoint_source.ts";
import { MAX_GGUF_HEADER_BYTES, MAX_SHARDS } from "../limits.ts";
import type { ByteSource, MetadataValue, TensorSource } from "../tensor_source.ts";
import { WindowTooSmall } from "./cursor.ts";
import { type GgufHeader, parseGgufHeader } from "./header.ts";

/** Bytes read before the first attempt; a small model's header with a 50k vocabulary fits. */
const FIRST_WINDOW_BYTES = 2 * 1024 * 1024;

/**
 * Opens a GGUF checkpoint of one file or several parts, given in order. Takes over the sources: they
 * are closed when the checkpoint is, or when opening fails with FormatError.
 */
export async function openGguf(
  files: readonly ByteSource[],
  options: { name?: string } = {},
): Promise<TensorSource> {
  try {
    if (files.length < 1 || files.length > MAX_SHARDS) {
      throw FormatError.of("read GGUF", "the number of parts", files.length, `1..${MAX_SHARDS}`);
    }
    const parts: GgufPart[] = [];
    for (const file of files) parts.push({ file, header: await readGgufHeader(file) });
    return assembleGguf(parts, options);
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
}

/** A file with its parsed header. */
export interface GgufPart {
  readonly file: ByteSource;
  readonly header: GgufHeader;
}

/** The checkpoint that parsed parts make, in order; throws FormatError where they don't fit. */
export function assembleGguf(
  parts: readonly GgufPart[],
  options: { name?: string } = {},
): TensorSource {
  parts.forEach((part, index) => checkPart(part, { index, count: parts.length }));
  const tensors: StoredTensor[] = parts.flatMap(({ file, header }) =>
    header.tensors.map(({ name, type, isWeight, shape, byteLength, offset }) => ({
      info: isWeight
        ? { name, type: type as TensorType, shape, byteLength }
        : { name, dtype: type, shape, byteLength },
      file,
      offset: header.dataStart + offset,
    }))
  );
  checkSplitTotal(parts[0], tensors.length);
  const metadata = new Map<string, MetadataValue>();
  for (const [key, { value }] of parts[0].header.metadata) metadata.set(key, value);
  return new CheckpointSource({
    format: "gguf",
    name: options.name ?? baseName(parts[0].file.name),
    files: parts.map(({ file }) => file),
    tensors,
    metadata,
  });
}

/** Reads as much of the file's beginning as its header turns out to need. */
export async function readGgufHeader(file: ByteSource): Promise<GgufHeader> {
  let window = new Uint8Array(Math.min(file.size, FIRST_WINDOW_BYTES));
  await file.read(0, window);
  while (true) {
    try {
      return parseGgufHeader(window, file);
    } catch (error) {
      if (!(error instanceof WindowTooSmall)) throw error;
      const wanted = Math.min(MAX_GGUF_HEADER_BYTES, Math.max(window.length * 4, error.until));
      const larger = new Uint8Array(Math.min(file.size, wanted));
      larger.set(window);
      await file.read(window.length, larger.subarray(window.length));
      window = larger;
    }
  }
}

/** A part must say that it is this one of so many; a single file may also say nothing. */
function checkPart(
  part: GgufPart,
  expected: { index: number; count: number },
): void {
  const { metadata } = part.header;
  const action = `read GGUF ${quoted(part.file.name)}`;
  const count = metadata.get("split.count")?.value;
  const number = metadata.get("split.no")?.value;
  if (expected.count === 1 && (count === undefined || count === 0)) return;
  if (count !== expected.count) {
    throw FormatError.of(action, `key "split.count"`, count, `${expected.count} (parts opened)`);
  }
  if (number !== expected.index) {
    throw FormatError.of(action, `key "split.no"`, number, `${expected.index} (its file name)`);
  }
}

function checkSplitTotal(
  first: GgufPart,
  tensorCount: number,
): void {
  const stated = first.header.metadata.get("split.tensors.count")?.value;
  if (stated === undefined || stated === tensorCount) return;
  throw FormatError.of(
    `read GGUF ${quoted(first.file.name)}`,
    `key "split.tensors.count"`,
    stated,
    `${tensorCount} (tensors in all parts)`,
  );
}
