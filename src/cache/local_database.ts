/**
 * A local Deno KV in a folder. Its own threads panic, and so end the whole process, where what they do
 * by themselves fails (denokv_sqlite 0.14.0, `sqlite_thread`): looking for queued messages, and removing
 * what has expired. So their queries are tried before it is opened, and nothing in it expires by itself:
 * then they have nothing to write, on a full disk for instance.
 */

import { mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { openKv } from "./deno_kv.ts";
import { type Kv, type KvAtomic, type KvMedium, patiently } from "./kv.ts";

const DATABASE = "kv.sqlite3";
/** How the names of databases begin that were set aside. */
const DAMAGED = `${DATABASE}.damaged-`;
/** What SQLite keeps beside a database. */
const COMPANIONS = ["-wal", "-shm"];

/** What SQLite and the runtime say where the file itself is not to blame. */
const CIRCUMSTANCES = /locked|busy|full|read-?only|unable to open|denied|requires|I\/O|memory/i;

/** Milliseconds that SQLite waits for other processes. */
const BUSY_MS = 500;

/** What Deno KV's threads ask by themselves; each touches the pages that they would. */
const QUERIES = [
  "select ts, id, data, backoff_schedule, keys_if_undelivered from queue order by ts limit 1",
  "select id from queue_running order by deadline limit 1",
  "select count(*) from queue_running",
  "select count(*) from queue",
  "select k from kv where expiration_ms >= 0 and expiration_ms <= 9e15",
  "select expiration_ms from kv where expiration_ms >= 0 order by expiration_ms limit 1",
  "select version from data_version where k = 0",
];

/** A database in `folder`, which is made where it is missing. */
export function localMedium(folder: string): KvMedium {
  const path = join(folder, DATABASE);
  /** The file that was opened last; null where there was none. */
  let opened: string | null = null;
  return {
    async open() {
      await mkdir(folder, { recursive: true });
      opened = await identityOf(path);
      try {
        if (opened !== null) await patiently(() => tryQueries(path));
        const kv = await patiently(() => openKv(path));
        opened ??= await identityOf(path);
        return withoutExpiry(kv);
      } catch (error) {
        if (opened === null || CIRCUMSTANCES.test(String(error))) throw error;
        throw new Error(`the database is malformed: ${(error as Error).message}`);
      }
    },
    async setAside() {
      if (opened === null || await identityOf(path) !== opened) return null;
      await removeOlder(folder);
      const time = new Date().toISOString().replace(/[:.]/g, "-");
      const place = join(folder, `${DAMAGED}${time}`);
      await rename(path, place);
      for (const companion of COMPANIONS) {
        await rename(path + companion, place + companion).catch(() => {});
      }
      return place;
    },
    async isThere() {
      return opened === null || await identityOf(path) === opened;
    },
  };
}

export async function localDatabaseExists(folder: string): Promise<boolean> {
  return await identityOf(join(folder, DATABASE)) !== null;
}

/** Throws what SQLite says of a database that Deno KV would not survive. */
async function tryQueries(path: string): Promise<void> {
  // Old versions of Node have no SQLite; the check is missing there.
  const sqlite = await import("node:sqlite").catch(() => null);
  if (sqlite === null) return;
  const database = new sqlite.DatabaseSync(path);
  try {
    // Another process may just be recovering the log of one that died.
    database.exec(`pragma busy_timeout = ${BUSY_MS}`);
    const tables = database.prepare("select count(*) as n from sqlite_schema").get();
    // Somebody else is just making it.
    if (Number(tables?.n) === 0) return;
    for (const query of QUERIES) database.prepare(query).all();
  } catch (error) {
    if (!/no such (table|column)/.test(String(error))) throw error;
  } finally {
    database.close();
  }
}

/** Only the last damaged database is kept, so that they don't fill the disk. */
async function removeOlder(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (name.startsWith(DAMAGED)) await rm(join(folder, name), { force: true });
  }
}

/** Tells a file from one that took its place. */
async function identityOf(path: string): Promise<string | null> {
  try {
    const { dev, ino, birthtimeMs } = await stat(path);
    return `${dev}:${ino}:${birthtimeMs}`;
  } catch {
    return null;
  }
}

function withoutExpiry(kv: Kv): Kv {
  return {
    get: (key) => kv.get(key),
    getMany: (keys) => kv.getMany(keys),
    list: (selector, options) => kv.list(selector, options),
    atomic: () => lasting(kv.atomic()),
    close: () => kv.close(),
  };
}

function lasting(atomic: KvAtomic): KvAtomic {
  const wrapped: KvAtomic = {
    check: (check) => (atomic.check(check), wrapped),
    set: (key, value) => (atomic.set(key, value, {}), wrapped),
    delete: (key) => (atomic.delete(key), wrapped),
    commit: () => atomic.commit(),
  };
  return wrapped;
}
