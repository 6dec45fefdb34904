/** Files of corpora on the disk: the folder that one is written to, and the files it is made from. */

import { createGunzip } from "node:zlib";
import { Duplex } from "node:stream";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { OptionError } from "../errors.ts";
import type { AppendFile, OutputFolder } from "../training/data/build/folder.ts";
import type { DataFiles } from "../training/data/readers/files.ts";

/** A folder, made where it isn't there. */
export function openFolder(path: string): OutputFolder {
  Deno.mkdirSync(path, { recursive: true });
  const full = (name: string) => `${path}/${name}`;
  return {
    names: () => [...Deno.readDirSync(path)].filter(({ isFile }) => isFile).map(({ name }) => name),
    readText: (name) => readTextOrNull(full(name)),
    write(name, bytes) {
      writeSynced(full(`${name}.new`), bytes);
      Deno.renameSync(full(`${name}.new`), full(name));
      syncFolder(path);
    },
    stream: async (name) => (await Deno.open(full(name))).readable,
    append: (name, length) => appendFile(full(name), length),
    rename(from, to) {
      Deno.renameSync(full(from), full(to));
      syncFolder(path);
    },
    remove: (name) => Deno.removeSync(full(name)),
  };
}

function readTextOrNull(path: string): string | null {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

function writeSynced(path: string, bytes: Uint8Array): void {
  const file = appendFile(path, 0);
  file.write(bytes);
  file.sync();
  file.close();
}

/** Makes a rename last: it is an entry of the folder. Windows knows no such thing. */
function syncFolder(path: string): void {
  if (Deno.build.os === "windows") return;
  const folder = Deno.openSync(path);
  folder.syncSync();
  folder.close();
}

function appendFile(path: string, length: number): AppendFile {
  const file = Deno.openSync(path, { write: true, create: true });
  file.truncateSync(length);
  file.seekSync(length, Deno.SeekMode.Start);
  return {
    write(bytes) {
      for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
    },
    sync: () => file.syncSync(),
    close: () => file.close(),
  };
}

/** Bytes at either end of a file that stand for all of it. */
const IDENTITY_BYTES = 65_536;

/** The disk's files. A file that isn't there is an OptionError. */
export const DISK_FILES: DataFiles = Object.freeze({
  async open(path: string, from: number) {
    const file = await openInput(path);
    if (path.endsWith(".gz")) {
      // Unlike DecompressionStream, this goes on where several packed files have been joined, as they
      // are in web archives.
      const unzip = Duplex.toWeb(createGunzip()) as ReadableWritablePair<Uint8Array, Uint8Array>;
      return skip(file.readable.pipeThrough(unzip), from);
    }
    await file.seek(from, Deno.SeekMode.Start);
    return file.readable;
  },
  async size(path: string) {
    const file = await openInput(path);
    const { size } = await file.stat();
    file.close();
    return size;
  },
});

async function openInput(path: string): Promise<Deno.FsFile> {
  try {
    return await Deno.open(path);
  } catch (error) {
    const reason = error instanceof Error ? error.name : String(error);
    throw new OptionError(`cannot read ${JSON.stringify(path)} (${reason}): must be a file`);
  }
}

function skip(stream: ReadableStream<Uint8Array>, bytes: number): ReadableStream<Uint8Array> {
  let left = bytes;
  return stream.pipeThrough(
    new TransformStream({
      transform(chunk, controller) {
        const skipped = Math.min(left, chunk.length);
        left -= skipped;
        if (skipped < chunk.length) controller.enqueue(chunk.subarray(skipped));
      },
    }),
  );
}

/** Stands for a file's content: its size, and its first and last 64 KiB. */
async function identityOf(path: string): Promise<string> {
  const file = await openInput(path);
  try {
    const { size } = await file.stat();
    const hash = sha256.create();
    for (const start of [0, Math.max(0, size - IDENTITY_BYTES)]) {
      await file.seek(start, Deno.SeekMode.Start);
      const bytes = new Uint8Array(Math.min(IDENTITY_BYTES, size - start));
      for (let done = 0; done < bytes.length;) {
        const read = await file.read(bytes.subarray(done));
        if (read === null) break;
        done += read;
      }
      hash.update(bytes);
    }
    return `${size} ${bytesToHex(hash.digest())}`;
  } finally {
    file.close();
  }
}

/** Where files lie says nothing of what is in them. */
const PLACES: ReadonlySet<string> = new Set(["paths", "from"]);

/** Stands for a recipe and the content of the files that it names. */
export async function fingerprintOf(recipe: unknown, paths: readonly string[]): Promise<string> {
  const hash = sha256.create();
  hash.update(
    new TextEncoder().encode(
      JSON.stringify(recipe, (key, value) => PLACES.has(key) ? null : value),
    ),
  );
  for (const path of paths) hash.update(new TextEncoder().encode(await identityOf(path)));
  return bytesToHex(hash.digest());
}
