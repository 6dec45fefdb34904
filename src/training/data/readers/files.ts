/** Drafts from files, one after the other, each with the position behind it. */

import { linesOf } from "./lines.ts";
import { type Reading, readRecord, type RecordOptions } from "./records.ts";
import { textsOfWarc } from "./warc.ts";

/** Files as the command line opens them. */
export interface DataFiles {
  /** Bytes from `from` on; unpacked first where the name ends with .gz. */
  open(path: string, from: number): Promise<ReadableStream<Uint8Array>>;
  /** Bytes on the disk. */
  size(path: string): Promise<number>;
}

/** How far a source has been read. */
export interface Position {
  /** Which of its files. */
  readonly file: number;
  /** Bytes of unpacked text, or records of a WARC file. */
  readonly offset: number;
  /** Rows so far, over all files: numbers the next one. */
  readonly row: number;
}

export const START: Position = Object.freeze({ file: 0, offset: 0, row: 0 });

export interface Item {
  readonly reading: Reading;
  /** Where to go on behind this item. */
  readonly next: Position;
}

export interface FileSourceOptions extends RecordOptions {
  /** A record format, `text` or `warc`. */
  readonly format: string;
  readonly paths: readonly string[];
  readonly files: DataFiles;
  /** Plain text is cut at empty lines into pieces of at least this many characters. */
  readonly pieceCharacters: number;
}

/** All drafts from a position on. Throws what opening a file throws. */
export async function* readFiles(
  options: FileSourceOptions,
  from: Position,
): AsyncGenerator<Item> {
  let row = from.row;
  for (let file = from.file; file < options.paths.length; file++) {
    const offset = file === from.file ? from.offset : 0;
    for await (const { reading, offset: end } of readFile(options, { file, offset })) {
      row++;
      yield { reading, next: { file, offset: end, row } };
    }
  }
}

interface FileItem {
  readonly reading: Reading;
  readonly offset: number;
}

async function* readFile(
  options: FileSourceOptions,
  place: { file: number; offset: number },
): AsyncGenerator<FileItem> {
  const path = options.paths[place.file];
  if (options.format === "warc") {
    let record = 0;
    for await (const text of textsOfWarc(await options.files.open(path, 0))) {
      if (++record > place.offset) yield { reading: text, offset: record };
    }
    return;
  }
  const lines = linesOf(await options.files.open(path, place.offset));
  if (options.format === "text") {
    yield* pieces(lines, { start: place.offset, least: options.pieceCharacters });
    return;
  }
  for await (const { text, end } of lines) {
    if (text?.trim() === "") continue;
    const reading = text === null ? { refused: "line too long" } : readRecord(text, options);
    yield { reading, offset: place.offset + end };
  }
}

/** Plain text in pieces: paragraphs are kept whole and gathered until there is enough. */
async function* pieces(
  lines: AsyncIterable<{ text: string | null; end: number }>,
  options: { start: number; least: number },
): AsyncGenerator<FileItem> {
  let piece = "";
  let last = options.start;
  for await (const { text, end } of lines) {
    last = options.start + end;
    if (text === null) yield { reading: { refused: "line too long" }, offset: last };
    else if (text.trim() === "" && piece.length >= options.least) {
      yield { reading: { kind: "text", text: piece.trim() }, offset: last };
      piece = "";
    } else piece += `${text}\n`;
  }
  if (piece.trim() !== "") yield { reading: { kind: "text", text: piece.trim() }, offset: last };
}
