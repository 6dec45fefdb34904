/**
 * Web archives (WARC/1.0 and 1.1, ISO 28500): the pages of a file as text. The container is read here;
 * what HTML says is `html-to-text`'s business, which is loaded only where an archive is read.
 */

import { FormatError } from "../../../errors.ts";
import type { Reading } from "./records.ts";

/** A larger record is passed over. */
const MAX_RECORD_BYTES = 8 * 1024 * 1024;
const MAX_HEADER_BYTES = 64 * 1024;

/**
 * One reading for each record of an unpacked archive, so that a position is a number of records: a page's
 * text, or why the record has none. FormatError where the stream is no archive.
 */
export async function* textsOfWarc(stream: ReadableStream<Uint8Array>): AsyncGenerator<Reading> {
  const toText = await openHtml();
  const reader = new RecordReader(stream);
  for (let record = await reader.next(); record !== null; record = await reader.next()) {
    yield await readingOf(record, toText);
  }
}

interface Record {
  readonly headers: ReadonlyMap<string, string>;
  /** Null where it is too large. */
  readonly body: Uint8Array<ArrayBuffer> | null;
}

async function openHtml(): Promise<(html: string) => string> {
  const { compile } = await import("html-to-text");
  const skipped = ["img", "nav", "footer", "aside", "form"];
  return compile({
    wordwrap: false,
    selectors: [
      { selector: "a", options: { ignoreHref: true } },
      ...skipped.map((selector) => ({ selector, format: "skip" })),
    ],
  });
}

async function readingOf(record: Record, toText: (html: string) => string): Promise<Reading> {
  const type = record.headers.get("warc-type") ?? "unknown";
  if (type !== "response" && type !== "conversion") return { refused: `record of type ${type}` };
  if (record.body === null) return { refused: "page too large" };
  const page = type === "conversion"
    ? { type: "text/plain", body: record.body }
    : await responseOf(record.body);
  if (page === null) return { refused: "no readable HTTP response" };
  if (!/^text\/(?:html|plain)\b/i.test(page.type)) {
    return { refused: "neither HTML nor plain text" };
  }
  const source = decode(page.body, page.type);
  const text = (/html/i.test(page.type) ? toText(source) : source).trim();
  return text === "" ? { refused: "empty page" } : { kind: "text", text };
}

/** In the charset that the header names, UTF-8 where it names none that is known. */
function decode(body: Uint8Array, type: string): string {
  const label = /charset="?([\w-]+)/i.exec(type)?.[1] ?? "utf-8";
  try {
    return new TextDecoder(label).decode(body);
  } catch {
    return new TextDecoder().decode(body);
  }
}

/** An HTTP response's type and body, unchunked and unpacked; null where it is damaged. */
async function responseOf(
  bytes: Uint8Array<ArrayBuffer>,
): Promise<{ type: string; body: Uint8Array } | null> {
  const end = headerEnd(bytes);
  if (end < 0) return null;
  const headers = headersOf(bytes.subarray(0, end));
  let body: Uint8Array<ArrayBuffer> | null = bytes.subarray(end);
  if (/\bchunked\b/i.test(headers.get("transfer-encoding") ?? "")) body = unchunk(body);
  const encoding = headers.get("content-encoding") ?? "identity";
  if (body !== null && encoding !== "identity") body = await unpack(body, encoding);
  return body === null ? null : { type: headers.get("content-type") ?? "", body };
}

/** Archives often keep the header of a chunked response beside a body that has been joined. */
function unchunk(body: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> | null {
  const joined = new Uint8Array(body.length);
  let filled = 0;
  for (let at = 0; at < body.length;) {
    const end = body.indexOf(0x0a, at);
    const size = end < 0 ? null : /^([0-9a-f]{1,8})\s*(?:;.*)?\r?$/i.exec(
      new TextDecoder().decode(body.subarray(at, end)),
    );
    if (!size) return at === 0 ? body : null;
    const length = parseInt(size[1], 16);
    if (length === 0) return joined.subarray(0, filled);
    joined.set(body.subarray(end + 1, end + 1 + length), filled);
    filled += Math.min(length, body.length - end - 1);
    at = end + 1 + length + 2;
  }
  return joined.subarray(0, filled);
}

async function unpack(
  body: Uint8Array<ArrayBuffer>,
  encoding: string,
): Promise<Uint8Array<ArrayBuffer> | null> {
  const format = ({ gzip: "gzip", "x-gzip": "gzip", deflate: "deflate" } as const)[
    encoding.toLowerCase() as "gzip"
  ];
  if (format === undefined) return null;
  const pieces: Uint8Array[] = [];
  let length = 0;
  try {
    const stream = new Blob([body]).stream().pipeThrough(new DecompressionStream(format));
    for await (const piece of stream) {
      length += piece.length;
      // A small record may unpack to anything.
      if (length > MAX_RECORD_BYTES) return null;
      pieces.push(piece);
    }
  } catch {
    return null;
  }
  return joinPieces(pieces, length);
}

function joinPieces(pieces: readonly Uint8Array[], length: number): Uint8Array<ArrayBuffer> {
  const joined = new Uint8Array(length);
  let filled = 0;
  for (const piece of pieces) {
    joined.set(piece, filled);
    filled += piece.length;
  }
  return joined;
}

/** The index behind the empty line that ends a header, or -1. */
function headerEnd(bytes: Uint8Array): number {
  for (let at = bytes.indexOf(0x0a); at >= 0; at = bytes.indexOf(0x0a, at + 1)) {
    if (bytes[at + 1] === 0x0a) return at + 2;
    if (bytes[at + 1] === 0x0d && bytes[at + 2] === 0x0a) return at + 3;
  }
  return -1;
}

/** Names in lower case; the first line is not one of them. */
function headersOf(bytes: Uint8Array): Map<string, string> {
  const headers = new Map<string, string>();
  for (const line of new TextDecoder().decode(bytes).split(/\r?\n/).slice(1)) {
    const colon = line.indexOf(":");
    if (colon > 0) {
      headers.set(line.slice(0, colon).trim().toLowerCase(), line.slice(colon + 1).trim());
    }
  }
  return headers;
}

/** Cuts a stream into records; keeps one chunk and one record at a time. */
class RecordReader {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(stream: ReadableStream<Uint8Array>) {
    this.#reader = stream.getReader();
  }

  /** Reads on; false at the stream's end. */
  async #more(): Promise<boolean> {
    const { done, value } = await this.#reader.read();
    if (done) return false;
    this.#rest = this.#rest.length === 0
      ? value
      : joinPieces([this.#rest, value], this.#rest.length + value.length);
    return true;
  }

  /** The next record, or null at the end. */
  async next(): Promise<Record | null> {
    if (!await this.#skipEmptyLines()) return null;
    let end = headerEnd(this.#rest);
    while (end < 0) {
      if (this.#rest.length > MAX_HEADER_BYTES || !await this.#more()) throw noArchive("header");
      end = headerEnd(this.#rest);
    }
    const bytes = this.#rest.subarray(0, end);
    if (!new TextDecoder().decode(bytes.subarray(0, 6)).startsWith("WARC/1")) {
      throw noArchive("first line");
    }
    const headers = headersOf(bytes);
    const length = headers.get("content-length") ?? "";
    if (!/^\d{1,15}$/.test(length)) throw noArchive("Content-Length");
    this.#rest = this.#rest.subarray(end);
    return { headers, body: await this.#body(Number(length)) };
  }

  /** Two line ends follow each record. */
  async #skipEmptyLines(): Promise<boolean> {
    while (true) {
      const start = this.#rest.findIndex((byte) => byte !== 0x0d && byte !== 0x0a);
      this.#rest = start < 0 ? new Uint8Array(0) : this.#rest.subarray(start);
      if (start >= 0) return true;
      if (!await this.#more()) return false;
    }
  }

  async #body(length: number): Promise<Uint8Array<ArrayBuffer> | null> {
    const isKept = length <= MAX_RECORD_BYTES;
    const pieces: Uint8Array[] = [];
    for (let left = length; left > 0;) {
      if (this.#rest.length === 0 && !await this.#more()) throw noArchive("body");
      const piece = this.#rest.subarray(0, left);
      this.#rest = this.#rest.subarray(piece.length);
      left -= piece.length;
      if (isKept) pieces.push(piece);
    }
    return isKept ? joinPieces(pieces, length) : null;
  }
}

function noArchive(what: string): FormatError {
  return FormatError.of("read a web archive", `a record's ${what}`, "damaged or cut off", "whole");
}
