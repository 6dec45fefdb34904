/** Byte sources that need no file system, and the range check all of them share. */

import { FormatError } from "../errors.ts";
import type { ByteSource } from "./tensor_source.ts";

/** A source over bytes already in memory (a download, a test, an embedded model). Not copied. */
export function memoryByteSource(bytes: Uint8Array, name = "memory"): ByteSource {
  return {
    size: bytes.length,
    name,
    // An async function, so that a bad range rejects as it does for a file.
    // deno-lint-ignore require-await
    read: async (offset, into) => {
      checkRange({ name, size: bytes.length }, { offset, length: into.length });
      into.set(bytes.subarray(offset, offset + into.length));
    },
    close: () => {},
  };
}

/** Throws FormatError unless [offset, offset + length) lies inside the source. */
export function checkRange(
  source: { readonly name: string; readonly size: number },
  range: { readonly offset: number; readonly length: number },
): void {
  const end = range.offset + range.length;
  if (!Number.isSafeInteger(range.offset) || range.offset < 0 || end > source.size) {
    throw FormatError.of(
      `read ${quoted(source.name)}`,
      "the wanted range",
      `bytes ${range.offset}..${end}`,
      `within 0..${source.size}`,
    );
  }
}

/** Text from a file as it may appear in a message: escaped, and cut where it is long. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 77)}...` : text);
}

/** The last part of a path, for messages (they may reach people who need not see the folders). */
export function baseName(path: string): string {
  const trimmed = path.replace(/[\\/]+$/, "");
  return trimmed.slice(Math.max(trimmed.lastIndexOf("/"), trimmed.lastIndexOf("\\")) + 1) || path;
}
