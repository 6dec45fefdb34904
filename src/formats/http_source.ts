/**
 * Files behind HTTP range requests as byte sources. Owns what a range's answer must look like, and
 * that every answer is of the version of the file that was opened.
 */

import { FormatError } from "../errors.ts";
import { checkRange, quoted } from "./byte_source.ts";
import { ReadAhead } from "./read_ahead.ts";
import type { ByteSource, SourceVersion } from "./tensor_source.ts";
import { ask, type WebAnswer, webName, webUrl } from "./web_request.ts";

/** Bytes of the first request, which an opened file's header is likely to begin with. */
const FIRST_BYTES = 256 * 1024;

export interface HttpSourceOptions {
  /** The version that the file must be of; by default the one that it is of now. */
  readonly expected?: SourceVersion;
  /**
   * Whether small reads are made larger and announced ones come ahead (the default). Without, every
   * read is one request for exactly its bytes: for a reader that knows what it will want, and when.
   */
  readonly readAhead?: boolean;
  /** Milliseconds without a byte after which a request is given up and sent again. */
  readonly stallMs?: number;
}

/**
 * A file at an http(s) URL whose server answers range requests. Where a request fails for the
 * network's fault it is sent three times in all; every other answer than the wanted bytes of the
 * version opened is a FormatError. Reads may be issued side by side.
 */
export class HttpSource implements ByteSource {
  readonly size: number;
  /** The last part of the URL's path. */
  readonly name: string;
  /** The URL as given, a user and a password in it included: not to be shown. */
  readonly location: string;
  readonly version: SourceVersion;
  readonly #options: HttpSourceOptions;
  readonly #closing = new AbortController();
  readonly #ahead: ReadAhead | undefined;

  private constructor(
    location: string,
    options: HttpSourceOptions & { name: string; version: SourceVersion; first: Uint8Array },
  ) {
    this.size = options.version.size;
    this.name = options.name;
    this.location = location;
    this.version = options.version;
    this.#options = options;
    if (options.readAhead === false) return;
    this.#ahead = new ReadAhead({
      size: this.size,
      first: options.first,
      fetch: (offset, into) => this.#fetch(offset, into),
    });
  }

  /**
   * Asks for the file's beginning, and so for its version. Throws FormatError where there is none,
   * where the server does not answer range requests, or where it is not the version expected.
   */
  static async open(location: string, options: HttpSourceOptions = {}): Promise<HttpSource> {
    const name = webName(webUrl(location, "open a model"));
    const action = `open ${quoted(name)}`;
    const { expected, readAhead = true, stallMs } = options;
    const wanted = readAhead ? FIRST_BYTES : 1;
    const { version, first } = await ask(
      { url: location, action, stallMs, range: () => [0, wanted - 1] },
      async (answer) => {
        const empty = answer.status === 416 && totalWithoutRange(answer) === 0;
        const size = empty ? 0 : rangeOf(answer, action).total;
        const version = expected ?? versionOf(answer, size);
        checkVersion(answer, { action, version, size });
        const first = new Uint8Array(Math.min(size, wanted));
        if (!empty) await fill(answer, { action, offset: 0, into: first });
        return { version, first };
      },
    );
    return new HttpSource(location, { ...options, name, version, first });
  }

  /** `until` announces further reads in order, up to that offset; they may be fetched ahead. */
  async read(offset: number, into: Uint8Array, options?: { until?: number }): Promise<void> {
    checkRange(this, { offset, length: into.length });
    if (this.#closing.signal.aborted) {
      throw FormatError.of(`read ${quoted(this.name)}`, "the file", "closed", "open");
    }
    if (into.length === 0) return;
    if (this.#ahead === undefined) await this.#fetch(offset, into);
    else await this.#ahead.read(offset, { into, until: options?.until });
  }

  /** Ends the requests under way; their reads reject. */
  close(): void {
    this.#closing.abort();
    this.#ahead?.clear();
  }

  /** One request for the bytes from `offset`; where it breaks off, the next asks for the rest. */
  async #fetch(offset: number, into: Uint8Array): Promise<void> {
    const action = `read ${quoted(this.name)}`;
    let filled = 0;
    await ask(
      {
        url: this.location,
        action,
        signal: this.#closing.signal,
        stallMs: this.#options.stallMs,
        range: () => [offset + filled, offset + into.length - 1],
      },
      async (answer) => {
        const total = answer.status === 416 ? totalWithoutRange(answer) : undefined;
        const size = total ?? rangeOf(answer, action).total;
        checkVersion(answer, { action, version: this.version, size });
        const rest = into.subarray(filled);
        const start = filled;
        await fill(answer, {
          action,
          offset: offset + start,
          into: rest,
          onProgress: (count) => filled = start + count,
        });
      },
    );
  }
}

/** Fills `into` with an answer that must be of exactly these bytes. */
async function fill(
  answer: WebAnswer,
  options: {
    action: string;
    offset: number;
    into: Uint8Array;
    onProgress?: (count: number) => void;
  },
): Promise<void> {
  const { action, offset, into, onProgress } = options;
  const { start, end } = rangeOf(answer, action);
  if (start !== offset || end !== offset + into.length) {
    const must = `${offset}..${offset + into.length}`;
    throw FormatError.of(action, "the range of its answer", `bytes ${start}..${end}`, must);
  }
  let count = 0;
  const must = `${into.length} bytes`;
  await answer.receive((piece) => {
    if (piece.length > into.length - count) {
      throw FormatError.of(action, "the length of its answer", `more than ${must}`, must);
    }
    into.set(piece, count);
    count += piece.length;
    onProgress?.(count);
  });
  if (count < into.length) {
    throw FormatError.of(action, "the length of its answer", `${count} bytes`, must);
  }
}

/** The range that an answer states, `end` exclusive, and the file's size. */
function rangeOf(
  answer: WebAnswer,
  action: string,
): { start: number; end: number; total: number } {
  const { status, headers } = answer;
  if (status === 200) {
    const must = "206 (the server must answer range requests)";
    throw FormatError.of(action, "its answer", "200", must);
  }
  if (status !== 206) throw FormatError.of(action, "its answer", statusText(status), "206");
  const stated = headers.get("content-range") ?? "";
  const match = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(stated);
  const [first, last, total] = (match ?? []).slice(1).map(Number);
  if (match === null || !Number.isSafeInteger(total) || first > last || last >= total) {
    throw FormatError.of(
      action,
      `the "content-range" of its answer`,
      stated === "" ? "missing" : quoted(stated),
      `"bytes FIRST-LAST/SIZE"`,
    );
  }
  return { start: first, end: last + 1, total };
}

/** The size that a refusal of a range (416) states, if any. */
function totalWithoutRange(answer: WebAnswer): number | undefined {
  const match = /^bytes \*\/(\d{1,15})$/.exec(answer.headers.get("content-range") ?? "");
  return match === null ? undefined : Number(match[1]);
}

function statusText(status: number): string {
  const meanings: Record<number, string> = {
    401: "not authorised",
    403: "forbidden",
    404: "not found",
    416: "no such range",
    429: "too many requests",
  };
  return meanings[status] === undefined ? `${status}` : `${status} (${meanings[status]})`;
}

/** A strong ETag where there is one, else the date, with the size. */
function versionOf({ headers }: WebAnswer, size: number): SourceVersion {
  const etag = strongEtag(headers);
  if (etag !== null) return { size, etag };
  const lastModified = headers.get("last-modified");
  return lastModified === null ? { size } : { size, lastModified };
}

/** Throws FormatError where an answer is not of this version. */
function checkVersion(
  { headers }: WebAnswer,
  options: { action: string; version: SourceVersion; size: number },
): void {
  const { action, version, size } = options;
  const check = (what: string, pair: { is: string | null; must: string | undefined }) => {
    const { is, must } = pair;
    if (must === undefined || is === must) return;
    const changed = `${must} (the file has changed since it was opened)`;
    throw FormatError.of(action, what, is ?? "missing", changed);
  };
  check("its ETag", { is: strongEtag(headers), must: version.etag });
  check("its date", { is: headers.get("last-modified"), must: version.lastModified });
  check("its size", { is: `${size}`, must: `${version.size}` });
}

/** The ETag with its quotation marks; weak ones promise no equal bytes. */
function strongEtag(headers: Headers): string | null {
  const etag = headers.get("etag");
  return etag !== null && /^"[^"]*"$/.test(etag) ? etag : null;
}
