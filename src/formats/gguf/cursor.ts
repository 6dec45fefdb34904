/**
 * A checked reader over the first bytes of a GGUF file. Three ends are kept apart: the file's (beyond
 * it the file is truncated), the limit for headers (beyond it the file is refused), and the window's
 * (beyond it the caller must read more and parse again).
 */

import { FormatError } from "../../errors.ts";
import { MAX_GGUF_HEADER_BYTES } from "../limits.ts";
import { decodeUtf8 } from "../utf8.ts";

/** Thrown when parsing needs bytes that the window does not hold yet, though the file has them. */
export class WindowTooSmall {
  /** The window must reach at least this file offset. */
  readonly until: number;

  constructor(until: number) {
    this.until = until;
  }
}

const TWO_32 = 2 ** 32;

export class Cursor {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly fileSize: number;
  /** Begins every message: `read GGUF "name"`. */
  readonly action: string;
  position = 0;

  constructor(window: Uint8Array, options: { fileSize: number; action: string }) {
    this.bytes = window;
    this.view = new DataView(window.buffer, window.byteOffset, window.byteLength);
    this.fileSize = options.fileSize;
    this.action = options.action;
  }

  /** Throws unless `count` more bytes can be read; `what` names the thing they are for. */
  need(count: number, what: string): void {
    const end = this.position + count;
    if (end <= this.bytes.length) return;
    if (end > this.fileSize) {
      throw this.error(`the end of ${what}`, `byte ${end}`, `at most ${this.fileSize} (file size)`);
    }
    if (end > MAX_GGUF_HEADER_BYTES) {
      throw this.error(`the end of ${what}`, `byte ${end}`, `at most ${MAX_GGUF_HEADER_BYTES}`);
    }
    throw new WindowTooSmall(end);
  }

  u8(what: string): number {
    this.need(1, what);
    return this.view.getUint8(this.position++);
  }

  u32(what: string): number {
    this.need(4, what);
    const value = this.view.getUint32(this.position, true);
    this.position += 4;
    return value;
  }

  /** An unsigned 64-bit integer that must lie in [minimum, maximum]; both are safe integers. */
  u64(what: string, range: { minimum?: number; maximum: number }): number {
    this.need(8, what);
    const low = this.view.getUint32(this.position, true);
    const high = this.view.getUint32(this.position + 4, true);
    const value = high * TWO_32 + low;
    const minimum = range.minimum ?? 0;
    if (value > range.maximum || value < minimum) {
      const exact = this.view.getBigUint64(this.position, true);
      throw this.error(what, exact, `from ${minimum} to ${range.maximum}`);
    }
    this.position += 8;
    return value;
  }

  /** A length-prefixed UTF-8 string of at most `maximum` bytes. */
  string(what: string, maximum: number): string {
    const length = this.u64(`the length of ${what}`, { maximum });
    this.need(length, what);
    const text = decodeUtf8(this.bytes.subarray(this.position, this.position + length));
    if (text === null) throw this.error(what, "not UTF-8", "valid UTF-8");
    this.position += length;
    return text;
  }

  error(what: string, is: unknown, must: string): FormatError {
    return FormatError.of(this.action, what, is, must);
  }
}
