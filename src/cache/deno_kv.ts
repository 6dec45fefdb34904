/** Opens databases: local ones, KV Connect servers, and both where the runtime isn't Deno. */

import { mkdir, rename, stat } from "node:fs/promises";
import { join } from "node:path";
import { type Kv, type KvMedium, patiently } from "./kv.ts";

const DATABASE = "kv.sqlite3";
/** What SQLite keeps beside a database. */
const COMPANIONS = ["-wal", "-shm"];

/** A database in `folder`, which is made where it is missing. */
export function localMedium(folder: string): KvMedium {
  const path = join(folder, DATABASE);
  /** The file that was opened last; null where that isn't known. */
  let opened: string | null = null;
  return {
    async open() {
      await mkdir(folder, { recursive: true });
      opened = await identityOf(path);
      const kv = await patiently(() => openKv(path));
      opened ??= await identityOf(path);
      return kv;
    },
    async setAside() {
      if (opened === null || await identityOf(path) !== opened) return null;
      const time = new Date().toISOString().replace(/[:.]/g, "-");
      const place = `${path}.damaged-${time}`;
      await rename(path, place);
      for (const companion of COMPANIONS) {
        await rename(path + companion, place + companion).catch(() => {});
      }
      return place;
    },
  };
}

/** A KV Connect server; the token is the environment's DENO_KV_ACCESS_TOKEN. */
export function remoteMedium(url: string): KvMedium {
  return { open: () => openKv(url), setAside: () => Promise.resolve(null) };
}

async function openKv(place: string): Promise<Kv> {
  // deno-lint-ignore no-explicit-any
  const deno = (globalThis as any).Deno;
  const open = deno?.openKv ?? (await import("@deno/kv")).openKv;
  return await open(place) as Kv;
}

/** Tells a file from one that took its place. */
async function identityOf(path: string): Promise<string | null> {
  try {
    const { dev, ino } = await stat(path);
    return `${dev}:${ino}`;
  } catch {
    return null;
  }
}
