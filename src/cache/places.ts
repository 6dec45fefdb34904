/** Where the bytes of units lie: in Deno KV itself, cut in chunks. Files are the other place (`files.ts`). */

import { CHUNK_BYTES, chunkCount, type Manifest, type PlaceName } from "./codec.ts";
import { chunkKey, CHUNKS, commit, type KvSession, listAll } from "./kv.ts";

/** Names bytes and says how they were cut. */
export type BytesName = Pick<Manifest, "writeId" | "bytes" | "chunkBytes">;

/** A medium for the bytes of units. What goes wrong with it rejects. */
export interface Place {
  readonly name: PlaceName;
  write(session: KvSession, content: WrittenBytes): Promise<void>;
  /** Null where they are not there, or not as long as they must be. */
  read(session: KvSession, name: BytesName): Promise<Uint8Array<ArrayBuffer> | null>;
  /** Removes what there is of them. */
  remove(session: KvSession, name: { writeId: string; chunks: number }): Promise<void>;
  /** The names of all bytes there are, torn ones included, and how many chunks each has at most. */
  names(session: KvSession): AsyncIterable<{ writeId: string; chunks: number }>;
}

export interface WrittenBytes {
  readonly writeId: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Milliseconds after which the medium may drop them. */
  readonly expireIn: number;
}

/** KV takes 819,200 bytes a commit, keys included. */
const CHUNKS_PER_COMMIT = 12;
/** KV takes 1,000 mutations a commit. */
const DELETES_PER_COMMIT = 500;
/** Chunks that one call reads: 4 MB. */
const CHUNKS_PER_READ = 64;

/** Chunks in the database. */
export class KvPlace implements Place {
  readonly name = "kv";

  async write(session: KvSession, { writeId, bytes, expireIn }: WrittenBytes): Promise<void> {
    const chunks = chunkCount({ bytes: bytes.length, chunkBytes: CHUNK_BYTES });
    for (let first = 0; first < chunks; first += CHUNKS_PER_COMMIT) {
      const atomic = session.kv.atomic();
      for (let i = first; i < Math.min(chunks, first + CHUNKS_PER_COMMIT); i++) {
        const chunk = bytes.subarray(i * CHUNK_BYTES, (i + 1) * CHUNK_BYTES);
        atomic.set(chunkKey(writeId, i), chunk, { expireIn });
      }
      await commit(session, atomic);
    }
  }

  async read(session: KvSession, name: BytesName): Promise<Uint8Array<ArrayBuffer> | null> {
    const { writeId, bytes: length, chunkBytes } = name;
    const bytes = new Uint8Array(length);
    let end = 0;
    const prefix = [...CHUNKS, writeId];
    for await (const { value } of listAll(session, { prefix, batchSize: CHUNKS_PER_READ })) {
      if (!(value instanceof Uint8Array)) return null;
      if (value.length !== Math.min(chunkBytes, length - end)) return null;
      bytes.set(value, end);
      end += value.length;
    }
    return end === length ? bytes : null;
  }

  async remove(
    session: KvSession,
    { writeId, chunks }: { writeId: string; chunks: number },
  ): Promise<void> {
    for (let first = 0; first < chunks; first += DELETES_PER_COMMIT) {
      const atomic = session.kv.atomic();
      for (let i = first; i < Math.min(chunks, first + DELETES_PER_COMMIT); i++) {
        atomic.delete(chunkKey(writeId, i));
      }
      await commit(session, atomic);
    }
  }

  async *names(session: KvSession): AsyncGenerator<{ writeId: string; chunks: number }> {
    let last = { writeId: "", chunks: 0 };
    const selection = { prefix: CHUNKS, batchSize: CHUNKS_PER_READ };
    for await (const { key } of listAll(session, selection)) {
      const writeId = String(key[CHUNKS.length]);
      if (writeId !== last.writeId && last.chunks > 0) yield last;
      last = { writeId, chunks: Number(key[CHUNKS.length + 1]) + 1 };
    }
    if (last.chunks > 0) yield last;
  }
}
