/**
 * Byte-level byte-pair encoding: text to token ids and back. Files are read elsewhere (`from_gguf.ts`,
 * `from_hugging_face.ts`); here is what every such tokenizer does with text.
 */

import { type AddedToken, AddedTokenTrie } from "./added_tokens.ts";
import { mergeLong, type Merges, SHORT_PIECE_BYTES, ShortMerger } from "./merges.ts";
import { normalizeNfc } from "./normalize.ts";
import { PieceIterator, type Scanner } from "./scanners.ts";
import { StreamDecoder } from "./stream_decoder.ts";
import { CategoryTable } from "./unicode.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** What a tokenizer file comes down to. */
export interface TokenizerParts {
  /** Begins error messages: `read the tokenizer of "name"`. */
  readonly action: string;
  readonly vocabulary: Vocabulary;
  readonly merges: Merges;
  readonly scanners: readonly Scanner[];
  readonly normalizer: "nfc" | null;
  readonly addedTokens: readonly AddedToken[];
  /** A piece that is a token stays whole even where no merges lead to it. */
  readonly ignoreMerges: boolean;
  /** Ids that `addSpecial` puts before and behind a text. */
  readonly prefix: readonly number[];
  readonly suffix: readonly number[];
  readonly bosToken: number | null;
  readonly eosToken: number | null;
  readonly padToken: number | null;
  /** Ids that end an answer, the end-of-sequence token first where there is one. */
  readonly eosTokens: readonly number[];
}

export interface EncodeOptions {
  /** Adds what the file puts around texts, mostly a BOS token in front. Default true. */
  readonly addSpecial?: boolean;
  /** Recognises special tokens in the text; added tokens that are not special always are. Default true. */
  readonly parseSpecial?: boolean;
}

/** UTF-16 units encoded between two looks at the clock. */
const UNITS_PER_YIELD = 2048;
/** UTF-16 units whose categories are looked up between two looks at the clock. */
const FLAGS_PER_YIELD = 65536;
/** Milliseconds that `encodeAsync` keeps the thread for. */
const SLICE_MS = 4;

/** What is known of a vocabulary entry: whether its own text encodes to it alone. */
const UNKNOWN = 0;
const WHOLE = 1;
const PARTS = 2;

const NO_BYTES = new Uint8Array(0);

export class Tokenizer {
  /** Number of ids, added tokens included; the model's output may be wider. */
  readonly vocabSize: number;
  readonly bosToken: number | null;
  readonly eosToken: number | null;
  readonly padToken: number | null;
  /** Ids that end an answer: end of sequence, end of turn and the like. */
  readonly eosTokens: readonly number[];
  /** Ids that `addSpecial` puts in front of a text. */
  readonly prefix: readonly number[];
  readonly #parts: TokenizerParts;
  readonly #categories = new CategoryTable();
  readonly #rawTrie: AddedTokenTrie;
  readonly #normalizedTrie: AddedTokenTrie;
  readonly #addedIds = new Map<string, number>();
  readonly #special = new Set<number>();
  /** Byte to the id of the token of that byte alone, -1 where there is none. */
  readonly #byteIds = new Int32Array(256);
  readonly #merger: ShortMerger;
  /** UNKNOWN, WHOLE or PARTS by id: saves merging the pieces that are tokens. */
  readonly #wholeness: Uint8Array;
  readonly #bytes = new Uint8Array(3 * SHORT_PIECE_BYTES);
  readonly #ids = new Int32Array(SHORT_PIECE_BYTES);

  constructor(parts: TokenizerParts) {
    this.#parts = parts;
    this.vocabSize = parts.vocabulary.size;
    this.bosToken = parts.bosToken;
    this.eosToken = parts.eosToken;
    this.padToken = parts.padToken;
    this.eosTokens = parts.eosTokens;
    this.prefix = parts.prefix;
    this.#merger = new ShortMerger(parts.merges);
    this.#wholeness = new Uint8Array(parts.vocabulary.size);
    const { action, addedTokens } = parts;
    this.#rawTrie = new AddedTokenTrie(addedTokens.filter((t) => !t.normalized), { action });
    this.#normalizedTrie = new AddedTokenTrie(
      addedTokens.filter((t) => t.normalized)
        .map((token) => ({ ...token, content: this.#normalize(token.content) })),
      { action },
    );
    for (const token of addedTokens) {
      this.#addedIds.set(token.content, token.id);
      if (token.special) this.#special.add(token.id);
    }
    const one = new Uint8Array(1);
    for (let byte = 0; byte < 256; byte++) {
      one[0] = byte;
      this.#byteIds[byte] = parts.vocabulary.find(one, 0, 1);
    }
  }

  /** Whether the id is a control token, which `skipSpecial` leaves out of text. */
  isSpecial(id: number): boolean {
    return this.#special.has(id);
  }

  /** Token ids of a text. Lone surrogates count as U+FFFD. */
  encode(text: string, options: EncodeOptions = {}): number[] {
    const ids: number[] = [];
    const steps = this.#encodeSteps(text, options, ids);
    while (!steps.next().done);
    return ids;
  }

  /** Like `encode`, but lets other tasks of the thread run every few milliseconds. */
  async encodeAsync(
    text: string,
    options: EncodeOptions & { signal?: AbortSignal } = {},
  ): Promise<number[]> {
    const ids: number[] = [];
    const steps = this.#encodeSteps(text, options, ids);
    let deadline = performance.now() + SLICE_MS;
    while (!steps.next().done) {
      if (performance.now() < deadline) continue;
      await new Promise((resolve) => setTimeout(resolve, 0));
      options.signal?.throwIfAborted();
      deadline = performance.now() + SLICE_MS;
    }
    return ids;
  }

  /** The text of token ids; bytes that are not UTF-8 become U+FFFD, unknown ids nothing. */
  decode(ids: Iterable<number>, options: { skipSpecial?: boolean } = {}): string {
    const decoder = this.decoder(options);
    let text = "";
    for (const id of ids) text += decoder.push(id);
    return text + decoder.flush();
  }

  /** A decoder for ids that arrive one by one. */
  decoder(options: { skipSpecial?: boolean } = {}): StreamDecoder {
    const { vocabulary } = this.#parts;
    const skipped = options.skipSpecial === true ? this.#special : null;
    return new StreamDecoder({
      bytesOf: (id) =>
        id < vocabulary.size && !skipped?.has(id) ? vocabulary.bytesOf(id) : NO_BYTES,
    });
  }

  /** A copy of the token's bytes, which may be part of a character; none for unknown ids. */
  idToBytes(id: number): Uint8Array {
    return id < this.vocabSize ? this.#parts.vocabulary.bytesOf(id).slice() : NO_BYTES;
  }

  /** The token's bytes as text, with U+FFFD where they are not whole characters. */
  idToPiece(id: number): string {
    return this.decode([id]);
  }

  /** The id of the token with exactly this text, added tokens first. */
  tokenToId(text: string): number | undefined {
    const added = this.#addedIds.get(text);
    if (added !== undefined) return added;
    const bytes = new TextEncoder().encode(text);
    const id = this.#parts.vocabulary.find(bytes, 0, bytes.length);
    return id < 0 ? undefined : id;
  }

  #normalize(text: string): string {
    return this.#parts.normalizer === "nfc" ? normalizeNfc(text) : text;
  }

  *#encodeSteps(text: string, options: EncodeOptions, ids: number[]): Generator<void, void> {
    const special = options.parseSpecial ?? true;
    const addSpecial = options.addSpecial ?? true;
    if (addSpecial) ids.push(...this.#parts.prefix);
    const raw = text.toWellFormed();
    for (const part of cut(raw, this.#rawTrie, special)) {
      if (typeof part === "number") {
        ids.push(part);
        continue;
      }
      for (const inner of cut(this.#normalize(part), this.#normalizedTrie, special)) {
        if (typeof inner === "number") ids.push(inner);
        else yield* this.#encodePlain(inner, ids);
      }
    }
    if (addSpecial) ids.push(...this.#parts.suffix);
  }

  /** Encodes text in which no added token occurs. */
  *#encodePlain(text: string, ids: number[]): Generator<void, void> {
    const flags = new Uint8Array(text.length);
    for (let from = 0; from < text.length;) {
      const to = Math.min(text.length, from + FLAGS_PER_YIELD);
      from = this.#categories.fill(text, { from, to, out: flags });
      if (from < text.length) yield;
    }
    const pieces = new PieceIterator({ text, flags }, this.#parts.scanners);
    let yieldAt = UNITS_PER_YIELD;
    while (pieces.next()) {
      const long = this.#encodePiece(text, pieces, ids);
      if (long !== null) {
        for (const id of yield* mergeLong(long, this.#parts.merges)) ids.push(id);
      }
      if (pieces.end >= yieldAt) {
        yieldAt = pieces.end + UNITS_PER_YIELD;
        yield;
      }
    }
  }

  /** Encodes a piece, or returns the ids of its bytes where it is too long to be merged at once. */
  #encodePiece(
    text: string,
    piece: { start: number; end: number },
    ids: number[],
  ): Int32Array | null {
    const { vocabulary, ignoreMerges } = this.#parts;
    const short = piece.end - piece.start <= SHORT_PIECE_BYTES;
    const bytes = short
      ? this.#bytes
      : new TextEncoder().encode(text.slice(piece.start, piece.end));
    const length = short ? writeUtf8(text, piece, bytes) : bytes.length;
    const whole = vocabulary.find(bytes, 0, length);
    if (whole >= 0 && (ignoreMerges || this.#wholeness[whole] === WHOLE)) {
      ids.push(whole);
      return null;
    }
    const byteIds = this.#byteIds;
    const buffer = length <= SHORT_PIECE_BYTES ? this.#ids : new Int32Array(length);
    let count = 0;
    for (let i = 0; i < length; i++) {
      // Bytes outside the vocabulary are left out, as the reference implementations do.
      const id = byteIds[bytes[i]];
      if (id >= 0) buffer[count++] = id;
    }
    if (length > SHORT_PIECE_BYTES) return buffer.subarray(0, count);
    count = this.#merger.merge(buffer, count);
    if (whole >= 0 && this.#wholeness[whole] === UNKNOWN) {
      this.#wholeness[whole] = count === 1 && buffer[0] === whole ? WHOLE : PARTS;
    }
    for (let i = 0; i < count; i++) ids.push(buffer[i]);
    return null;
  }
}

/** The added tokens of a text as ids and the texts between them, in order. */
function* cut(
  text: string,
  trie: AddedTokenTrie,
  special: boolean,
): Generator<number | string, void> {
  let from = 0;
  while (from < text.length) {
    const match = trie.find(text, from, { special });
    const end = match?.start ?? text.length;
    if (end > from) yield text.slice(from, end);
    if (match === null) return;
    yield match.token.id;
    from = match.end;
  }
}

/** Writes the UTF-8 of well-formed text [start, end) to `out` and returns its length. */
function writeUtf8(text: string, range: { start: number; end: number }, out: Uint8Array): number {
  let length = 0;
  for (let i = range.start; i < range.end; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x80) {
      out[length++] = unit;
    } else if (unit < 0x800) {
      out[length++] = 0xc0 | (unit >> 6);
      out[length++] = 0x80 | (unit & 63);
    } else if (unit < 0xd800 || unit >= 0xe000) {
      out[length++] = 0xe0 | (unit >> 12);
      out[length++] = 0x80 | ((unit >> 6) & 63);
      out[length++] = 0x80 | (unit & 63);
    } else {
      const point = text.codePointAt(i++)!;
      out[length++] = 0xf0 | (point >> 18);
      out[length++] = 0x80 | ((point >> 12) & 63);
      out[length++] = 0x80 | ((point >> 6) & 63);
      out[length++] = 0x80 | (point & 63);
    }
  }
  return length;
}
