/**
 * Bytes of units in a folder, a file each, for what a database shall not hold. A file gets its name when
 * it is whole; the manifest in the database checks it.
 */

import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { KvSession } from "./kv.ts";
import type { BytesName, Place, WrittenBytes } from "./places.ts";

const FILE = /^([0-9a-f]{32})\.(unit|part)$/;

export class FilesPlace implements Place {
  readonly name = "files";
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  async write({ step }: KvSession, { writeId, bytes }: WrittenBytes): Promise<void> {
    const path = this.#path(writeId);
    await step(mkdir(this.#folderOf(writeId), { recursive: true }));
    await step(writeFile(`${path}.part`, bytes));
    await step(rename(`${path}.part`, `${path}.unit`));
  }

  async read(
    { step }: KvSession,
    { writeId, bytes: length }: BytesName,
  ): Promise<Uint8Array<ArrayBuffer> | null> {
    const bytes = await step(readFile(`${this.#path(writeId)}.unit`).catch(nullIfMissing));
    if (bytes === null || bytes.length !== length) return null;
    // A buffer of its own: small files come out of a shared one, which cannot be transferred.
    return bytes.byteOffset === 0 && bytes.buffer.byteLength === length
      ? new Uint8Array(bytes.buffer as ArrayBuffer)
      : new Uint8Array(bytes);
  }

  async remove({ step }: KvSession, { writeId }: { writeId: string }): Promise<void> {
    const path = this.#path(writeId);
    await step(rm(`${path}.unit`, { force: true }));
    await step(rm(`${path}.part`, { force: true }));
  }

  async *names({ step }: KvSession): AsyncGenerator<{ writeId: string; chunks: number }> {
    const folders = await step(readdir(this.#folder).catch(nullIfMissing)) ?? [];
    for (const folder of folders.filter((name) => /^[0-9a-f]{2}$/.test(name))) {
      for (const file of await step(readdir(join(this.#folder, folder)))) {
        const writeId = FILE.exec(file)?.[1];
        if (writeId !== undefined) yield { writeId, chunks: 1 };
      }
    }
  }

  #folderOf(writeId: string): string {
    return join(this.#folder, writeId.slice(0, 2));
  }

  #path(writeId: string): string {
    return join(this.#folderOf(writeId), writeId);
  }
}

function nullIfMissing(error: { code?: string }): null {
  if (error.code === "ENOENT") return null;
  throw error;
}
