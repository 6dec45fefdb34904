/** Files on disk as byte sources, in the main thread and in workers. The formats' only use of Deno. */

import { FormatError } from "../errors.ts";
import { baseName, checkRange, quoted } from "./byte_source.ts";
import type { ByteSource } from "./tensor_source.ts";

/** Bytes per read call: large enough to be cheap, small enough for a bounce buffer. */
const CHUNK_BYTES = 4 * 1024 * 1024;

/**
 * Opens a regular file. Reads are seek-and-read pairs without a pause between them, so that calls
 * may be issued side by side; each blocks its thread for as long as the read takes.
 * Throws FormatError where the path is missing, not readable or not a regular file.
 */
export function openFile(path: string): ByteSource {
  const name = baseName(path);
  const action = `open ${quoted(name)}`;
  let file: Deno.FsFile;
  let size: number;
  try {
    // Looked at before it is opened: opening a named pipe would wait for a writer.
    const info = Deno.statSync(path);
    if (!info.isFile) throw FormatError.of(action, "the path", kindOf(info), "a regular file");
    file = Deno.openSync(path, { read: true });
    size = info.size;
  } catch (error) {
    throw asFormatError(error, action);
  }
  let open = true;
  return {
    size,
    name,
    location: path,
    version: { size },
    // An async function, so that a bad range rejects like any other failure.
    // deno-lint-ignore require-await
    read: async (offset, into) => {
      checkRange({ name, size }, { offset, length: into.length });
      if (!open) throw FormatError.of(`read ${quoted(name)}`, "the file", "closed", "open");
      readExactly(file, { name, offset, into });
    },
    close: () => {
      if (open) file.close();
      open = false;
    },
  };
}

/** What is at a path. Throws FormatError where it may not be looked at. */
export function pathKind(path: string): "file" | "folder" | "missing" {
  try {
    return Deno.statSync(path).isDirectory ? "folder" : "file";
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "missing";
    throw asFormatError(error, `open ${quoted(baseName(path))}`);
  }
}

/** Creates or replaces a file, to be written in order. */
export function createFile(path: string): { write(bytes: Uint8Array): void; close(): void } {
  const file = Deno.openSync(path, { write: true, create: true, truncate: true });
  return {
    write: (bytes) => {
      let written = 0;
      while (written < bytes.length) written += file.writeSync(bytes.subarray(written));
    },
    close: () => file.close(),
  };
}

/** Reads a whole file of at most `maximum` bytes; null where there is none. */
export function readWholeFile(path: string, maximum: number): Uint8Array<ArrayBuffer> | null {
  const name = baseName(path);
  const action = `read ${quoted(name)}`;
  try {
    const info = Deno.statSync(path);
    if (!info.isFile) throw FormatError.of(action, "the path", kindOf(info), "a regular file");
    if (info.size > maximum) {
      throw FormatError.of(action, "its size", info.size, `at most ${maximum} bytes`);
    }
    return Deno.readFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw asFormatError(error, action);
  }
}

function readExactly(
  file: Deno.FsFile,
  range: { name: string; offset: number; into: Uint8Array },
): void {
  const { name, offset, into } = range;
  // Deno fills only unshared memory; WASM banks are shared and get their bytes by a copy.
  const shared = !(into.buffer instanceof ArrayBuffer);
  const bounce = shared ? new Uint8Array(Math.min(CHUNK_BYTES, into.length)) : null;
  file.seekSync(offset, Deno.SeekMode.Start);
  let filled = 0;
  while (filled < into.length) {
    const wanted = Math.min(CHUNK_BYTES, into.length - filled);
    const target = bounce === null
      ? into.subarray(filled, filled + wanted)
      : bounce.subarray(0, wanted);
    const count = file.readSync(target);
    if (count === null || count === 0) {
      throw FormatError.of(
        `read ${quoted(name)}`,
        "the end of the file",
        `byte ${offset + filled}`,
        `${offset + into.length} or later (did it change while open?)`,
      );
    }
    if (bounce !== null) into.set(bounce.subarray(0, count), filled);
    filled += count;
  }
}

function kindOf(info: Deno.FileInfo): string {
  return info.isDirectory ? "a folder" : "a special file";
}

/** Whatever the system says about a path, in the form of a reader's errors. */
function asFormatError(error: unknown, action: string): FormatError {
  if (error instanceof FormatError) return error;
  if (error instanceof Deno.errors.NotFound) {
    return FormatError.of(action, "the path", "missing", "an existing file");
  }
  if (error instanceof Deno.errors.PermissionDenied || error instanceof Deno.errors.NotCapable) {
    return FormatError.of(
      action,
      "the path",
      "not readable",
      "readable with the permissions given",
    );
  }
  const reason = error instanceof Error ? error.name : "unknown";
  return FormatError.of(action, "the path", `not usable (${reason})`, "a readable file");
}
