/**
 * Makes few large reads of many small ones, for sources where each read costs a round trip. Reads that
 * announce more to come are served from pieces, the next one fetched while the present one is used.
 */

/** A small read brings so many bytes, of which later ones find theirs. */
const BLOCK_BYTES = 256 * 1024;

/** An announced run of reads comes in pieces of so many bytes. */
const PIECE_BYTES = 4 * 1024 * 1024;

/** What is kept for later reads, the least recently used given up first. */
const KEPT_BYTES = 16 * 1024 * 1024;

interface Piece {
  readonly start: number;
  readonly end: number;
  readonly bytes: Promise<Uint8Array>;
}

export class ReadAhead {
  readonly #size: number;
  readonly #fetch: (offset: number, into: Uint8Array) => Promise<void>;
  /** The least recently used first. */
  #pieces: Piece[] = [];

  /** `first` is the source's beginning, already there. */
  constructor(options: {
    size: number;
    first: Uint8Array;
    fetch: (offset: number, into: Uint8Array) => Promise<void>;
  }) {
    this.#size = options.size;
    this.#fetch = options.fetch;
    const bytes = Promise.resolve(options.first);
    if (options.first.length > 0) this.#keep({ start: 0, end: options.first.length, bytes });
  }

  /** Fills `into` from `offset`; reads in order up to `until` are to follow. Rejects as `fetch` does. */
  async read(offset: number, options: { into: Uint8Array; until?: number }): Promise<void> {
    const { into } = options;
    const end = offset + into.length;
    const until = Math.min(this.#size, Math.max(end, options.until ?? end));
    for (let position = offset; position < end;) {
      let piece = this.#find(position);
      if (piece === undefined) {
        const most = until > end ? PIECE_BYTES : BLOCK_BYTES;
        // What fills a request of its own needs no second copy.
        if (end - position >= most) {
          return await this.#fetch(position, into.subarray(position - offset));
        }
        piece = this.#start(...pieceAround(position, Math.min(until, position + most)));
      }
      if (until > end && until > piece.end && this.#find(piece.end) === undefined) {
        this.#start(piece.end, Math.min(until, piece.end + PIECE_BYTES));
      }
      const bytes = await piece.bytes;
      const part = bytes.subarray(position - piece.start, end - piece.start);
      into.set(part, position - offset);
      position += part.length;
    }
  }

  /** Gives everything up. */
  clear(): void {
    this.#pieces = [];
  }

  /** The piece with this offset, now the most recently used. */
  #find(offset: number): Piece | undefined {
    const index = this.#pieces.findLastIndex(({ start, end }) => start <= offset && offset < end);
    if (index < 0) return undefined;
    const [piece] = this.#pieces.splice(index, 1);
    this.#pieces.push(piece);
    return piece;
  }

  #start(start: number, end: number): Piece {
    const bytes = new Uint8Array(Math.min(end, this.#size) - start);
    const piece: Piece = {
      start,
      end: start + bytes.length,
      bytes: this.#fetch(start, bytes).then(() => bytes),
    };
    // A failure is the waiting reader's; the next reader asks anew.
    piece.bytes.catch(() => {
      this.#pieces = this.#pieces.filter((kept) => kept !== piece);
    });
    this.#keep(piece);
    return piece;
  }

  #keep(piece: Piece): void {
    this.#pieces.push(piece);
    let kept = this.#pieces.reduce((sum, { start, end }) => sum + end - start, 0);
    while (kept > KEPT_BYTES && this.#pieces.length > 1) {
      const { start, end } = this.#pieces.shift()!;
      kept -= end - start;
    }
  }
}

/** The range to fetch for `start..end`: small ones grow to whole blocks, for their neighbours' sake. */
function pieceAround(start: number, end: number): [start: number, end: number] {
  if (end - start >= BLOCK_BYTES) return [start, end];
  return [
    Math.floor(start / BLOCK_BYTES) * BLOCK_BYTES,
    Math.ceil(end / BLOCK_BYTES) * BLOCK_BYTES,
  ];
}
