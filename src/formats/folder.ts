/** The place where a checkpoint's files lie side by side: a folder on disk, or the folder of a URL. */

import { FormatError } from "../errors.ts";
import { baseName, quoted } from "./byte_source.ts";
import { openFile, pathKind, readWholeFile } from "./deno_file.ts";
import { HttpSource } from "./http_source.ts";
import { MAX_SIDECAR_BYTES } from "./limits.ts";
import type { ByteSource } from "./tensor_source.ts";
import { decodeUtf8 } from "./utf8.ts";
import { ask, webName, webUrl } from "./web_request.ts";

export interface Folder {
  /** For messages. */
  readonly name: string;
  /** Opens one of its files; rejects with FormatError where there is none. */
  open(file: string): Promise<ByteSource>;
  /** False where it is known to have no such file; servers are not asked, and so may. */
  mayHold(file: string): boolean;
  /** A text file, or null where there is none. `file` must be a plain name: it may come from a file. */
  readText(file: string): Promise<string | null>;
}

/** `path` is empty or ends with a slash. */
export function diskFolder(path: string): Folder {
  return {
    name: baseName(path),
    // Async functions, so that errors reject.
    // deno-lint-ignore require-await
    open: async (file) => openFile(path + file),
    mayHold: (file) => pathKind(path + file) !== "missing",
    // deno-lint-ignore require-await
    readText: async (file) => {
      checkPlain(file);
      const bytes = readWholeFile(path + file, MAX_SIDECAR_BYTES);
      return bytes === null ? null : textOf(bytes, file);
    },
  };
}

/** `url` ends with a slash, but for a query, which all files are asked for with. */
export function webFolder(url: string): Folder {
  const urlOf = (file: string) => {
    const joined = webUrl(url, "open a model");
    joined.pathname += encodeURIComponent(file);
    return joined.href;
  };
  return {
    name: webName(webUrl(url, "open a model")),
    open: (file) => HttpSource.open(urlOf(file)),
    mayHold: () => true,
    readText: async (file) => {
      checkPlain(file);
      const bytes = await download(urlOf(file), file);
      return bytes === null ? null : textOf(bytes, file);
    },
  };
}

/** A whole file of at most MAX_SIDECAR_BYTES; null where the server has none. */
async function download(url: string, name: string): Promise<Uint8Array | null> {
  const action = `read ${quoted(name)}`;
  return await ask({ url, action }, async ({ status, receive }) => {
    if (status === 404 || status === 410) return null;
    if (status !== 200) throw FormatError.of(action, "its answer", status, "200");
    const pieces: Uint8Array[] = [];
    let length = 0;
    await receive((piece) => {
      length += piece.length;
      if (length > MAX_SIDECAR_BYTES) {
        const must = `at most ${MAX_SIDECAR_BYTES} bytes`;
        throw FormatError.of(action, "its size", `at least ${length}`, must);
      }
      pieces.push(piece);
    });
    const bytes = new Uint8Array(length);
    let offset = 0;
    for (const piece of pieces) {
      bytes.set(piece, offset);
      offset += piece.length;
    }
    return bytes;
  });
}

function checkPlain(name: string): void {
  if (name === baseName(name) && name !== "" && !name.startsWith(".")) return;
  throw FormatError.of("read a sidecar document", "its name", quoted(name), "a plain file name");
}

function textOf(bytes: Uint8Array, name: string): string {
  const text = decodeUtf8(bytes);
  if (text !== null) return text;
  throw FormatError.of(`read ${quoted(name)}`, "its text", "not UTF-8", "valid UTF-8");
}
