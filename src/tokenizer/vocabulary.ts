/**
 * Token texts as bytes in one block, with a hash index from bytes to id. 150,000 tokens take about
 * 3 MB this way, a tenth of what a Map of strings would.
 */

/** FNV-1a over bytes [start, end), stirred so that its low bits can index a table. */
function hashBytes(bytes: Uint8Array, start: number, end: number): number {
  let hash = 0x811c9dc5;
  for (let i = start; i < end; i++) hash = Math.imul(hash ^ bytes[i], 0x01000193);
  return hash ^ (hash >>> 15);
}

/** The smallest power of two that keeps an open-addressing table of `count` entries half empty. */
export function tableSize(count: number): number {
  let size = 16;
  while (size < 2 * count) size *= 2;
  return size;
}

export class Vocabulary {
  /** Number of ids; ids without a token have no bytes. */
  readonly size: number;
  readonly #bytes: Uint8Array;
  readonly #offsets: Uint32Array;
  /** id + 1, or 0 for an empty place. */
  readonly #table: Int32Array;

  constructor(parts: { bytes: Uint8Array; offsets: Uint32Array; table: Int32Array }) {
    this.#bytes = parts.bytes;
    this.#offsets = parts.offsets;
    this.#table = parts.table;
    this.size = parts.offsets.length - 1;
  }

  /** The id of the mergeable token with exactly bytes [start, end), or -1. */
  find(bytes: Uint8Array, start: number, end: number): number {
    const mask = this.#table.length - 1;
    for (let at = hashBytes(bytes, start, end) & mask;; at = (at + 1) & mask) {
      const id = this.#table[at] - 1;
      if (id < 0 || this.#equals(id, bytes, start, end)) return id;
    }
  }

  /** The token's bytes, a view; empty for ids that have no token. */
  bytesOf(id: number): Uint8Array {
    return this.#bytes.subarray(this.#offsets[id], this.#offsets[id + 1]);
  }

  #equals(id: number, bytes: Uint8Array, start: number, end: number): boolean {
    const from = this.#offsets[id];
    const length = end - start;
    if (this.#offsets[id + 1] - from !== length) return false;
    for (let i = 0; i < length; i++) {
      if (this.#bytes[from + i] !== bytes[start + i]) return false;
    }
    return true;
  }
}

/** Collects tokens in ascending order of their ids. */
export class VocabularyBuilder {
  #bytes: Uint8Array;
  #used = 0;
  #next = 0;
  readonly #offsets: Uint32Array;
  readonly #table: Int32Array;

  constructor(size: number) {
    this.#bytes = new Uint8Array(Math.max(64, 8 * size));
    this.#offsets = new Uint32Array(size + 1);
    this.#table = new Int32Array(tableSize(size));
  }

  /**
   * Adds the token `id`. `mergeable` tokens can be found by their bytes; the answer is the id that
   * already has these bytes, or -1 where all is well.
   */
  add(id: number, token: { bytes: Uint8Array; length: number; mergeable: boolean }): number {
    const { bytes, length, mergeable } = token;
    if (this.#used + length > this.#bytes.length) {
      const grown = new Uint8Array(2 * (this.#used + length));
      grown.set(this.#bytes.subarray(0, this.#used));
      this.#bytes = grown;
    }
    while (this.#next <= id) this.#offsets[this.#next++] = this.#used;
    const start = this.#used;
    for (let i = 0; i < length; i++) this.#bytes[start + i] = bytes[i];
    this.#used += length;
    if (!mergeable) return -1;
    const mask = this.#table.length - 1;
    let at = hashBytes(bytes, 0, length) & mask;
    while (this.#table[at] !== 0) {
      const other = this.#table[at] - 1;
      if (this.#same(other, start, length)) return other;
      at = (at + 1) & mask;
    }
    this.#table[at] = id + 1;
    return -1;
  }

  finish(): Vocabulary {
    this.#offsets.fill(this.#used, this.#next);
    return new Vocabulary({
      bytes: this.#bytes.slice(0, this.#used),
      offsets: this.#offsets,
      table: this.#table,
    });
  }

  #same(id: number, start: number, length: number): boolean {
    const from = this.#offsets[id];
    if (this.#offsets[id + 1] - from !== length) return false;
    for (let i = 0; i < length; i++) {
      if (this.#bytes[from + i] !== this.#bytes[start + i]) return false;
    }
    return true;
  }
}
