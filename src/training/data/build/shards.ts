/**
 * JSONL in files of a fixed number of rows: `train-00000.jsonl`, `train-00001.jsonl`, ... The last one is
 * called `.partial` until it is whole.
 */

import { FormatError } from "../../../errors.ts";
import { type AppendFile, type OutputFolder, PARTIAL } from "./folder.ts";

/** How far the writing has come: what lies behind it is cut off on resuming. */
export interface ShardState {
  /** Number of the last file. */
  readonly shard: number;
  /** Rows and bytes in it. */
  readonly rows: number;
  readonly bytes: number;
}

export const NO_ROWS: ShardState = Object.freeze({ shard: 0, rows: 0, bytes: 0 });

export function shardName(side: string, shard: number): string {
  return `${side}-${String(shard).padStart(5, "0")}.jsonl`;
}

/** The numbers of a side's files that are whole, in order. */
export function shardNames(names: readonly string[], side: string): string[] {
  return names.filter((name) => new RegExp(`^${side}-\\d{5,}\\.jsonl$`).test(name)).sort();
}

/** Bytes gathered before they are written. */
const BUFFER_BYTES = 1 << 16;

export class ShardWriter {
  readonly #folder: OutputFolder;
  readonly #side: string;
  readonly #rowsPerShard: number;
  #shard: number;
  #rows: number;
  #bytes: number;
  #file: AppendFile | null = null;
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;

  /** Goes on from a state; what was written behind it is removed. */
  constructor(
    folder: OutputFolder,
    options: { side: string; rowsPerShard: number; state: ShardState },
  ) {
    const { side, rowsPerShard, state } = options;
    this.#folder = folder;
    this.#side = side;
    this.#rowsPerShard = rowsPerShard;
    this.#shard = state.shard;
    this.#rows = state.rows;
    this.#bytes = state.bytes;
    this.#cutBack();
  }

  #cutBack(): void {
    const names = new Set(this.#folder.names());
    for (let i = 0; i < this.#shard; i++) {
      const name = shardName(this.#side, i);
      if (names.has(name)) continue;
      throw FormatError.of("resume", name, "missing", "there, since it was written before");
    }
    const own = new RegExp(`^${this.#side}-(\\d{5,})\\.jsonl(?:\\${PARTIAL})?$`);
    for (const name of names) {
      const number = Number(own.exec(name)?.[1] ?? -1);
      if (number > this.#shard) this.#folder.remove(name);
    }
    const current = shardName(this.#side, this.#shard);
    // It became whole after the state was written, and is not whole in that state.
    if (names.has(current)) this.#folder.rename(current, current + PARTIAL);
  }

  write(line: Uint8Array): void {
    this.#pending.push(line);
    this.#pendingBytes += line.length;
    this.#bytes += line.length;
    this.#rows++;
    if (this.#pendingBytes >= BUFFER_BYTES) this.#flush();
    if (this.#rows === this.#rowsPerShard) this.#seal();
  }

  #flush(): void {
    const name = shardName(this.#side, this.#shard) + PARTIAL;
    this.#file ??= this.#folder.append(name, this.#bytes - this.#pendingBytes);
    const whole = new Uint8Array(this.#pendingBytes);
    let offset = 0;
    for (const piece of this.#pending) {
      whole.set(piece, offset);
      offset += piece.length;
    }
    this.#file.write(whole);
    this.#pending = [];
    this.#pendingBytes = 0;
  }

  #seal(): void {
    this.#flush();
    this.#file!.sync();
    this.#file!.close();
    this.#file = null;
    const name = shardName(this.#side, this.#shard);
    this.#folder.rename(name + PARTIAL, name);
    this.#shard++;
    this.#rows = 0;
    this.#bytes = 0;
  }

  /** Everything written so far is on the disk, and the state to resume from. */
  sync(): ShardState {
    if (this.#pendingBytes > 0) this.#flush();
    this.#file?.sync();
    return { shard: this.#shard, rows: this.#rows, bytes: this.#bytes };
  }

  /** Closes the last file, whole however few rows it has. */
  finish(): void {
    if (this.#rows > 0) this.#seal();
  }

  /** Lets go of the file as it is. */
  close(): void {
    this.#file?.close();
    this.#file = null;
  }
}
