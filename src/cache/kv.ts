/**
 * The part of Deno KV that the prefix cache uses, and where it keeps what. `Deno.Kv` and the npm
 * package's `Kv` both fit.
 */

export type KvKey = readonly (string | number)[];

export interface KvEntry {
  readonly key: readonly unknown[];
  readonly value: unknown;
  /** Null where there is no entry. */
  readonly versionstamp: string | null;
}

export interface KvAtomic {
  check(check: { key: KvKey; versionstamp: string | null }): KvAtomic;
  set(key: KvKey, value: Uint8Array, options: { expireIn?: number }): KvAtomic;
  delete(key: KvKey): KvAtomic;
  /** `ok` is false where a check failed; nothing was written then, and there is no versionstamp. */
  commit(): Promise<{ readonly ok: boolean; readonly versionstamp?: string }>;
}

export interface Kv {
  get(key: KvKey): Promise<KvEntry>;
  /** At most 10 keys. */
  getMany(keys: readonly KvKey[]): Promise<KvEntry[]>;
  list(
    selector: { prefix: KvKey },
    options: { batchSize: number },
  ): AsyncIterator<KvEntry>;
  atomic(): KvAtomic;
  close(): void;
}

/** Where a database comes from. */
export interface KvMedium {
  open(): Promise<Kv>;
  /**
   * Puts a malformed database out of the way and says where, so that `open` makes a new one. Null where
   * another process has done so, or where the database isn't ours to move.
   */
  setAside(): Promise<string | null>;
  /** False where what was opened last is no longer what `open` would find. */
  isThere(): Promise<boolean>;
}

/** Keys that one `getMany` takes. */
const MAX_KEYS = 10;

const ROOT = ["sluice", 1];

/** All manifests. */
export const UNITS: KvKey = [...ROOT, "unit"];
/** All chunks of bytes. */
export const CHUNKS: KvKey = [...ROOT, "chunk"];
/** Marks of bytes that no manifest names: not yet, or no longer. */
export const LOOSE: KvKey = [...ROOT, "loose"];

export function unitKey(key: string): KvKey {
  return [...UNITS, key];
}

export function chunkKey(writeId: string, index: number): KvKey {
  return [...CHUNKS, writeId, index];
}

export function looseKey(writeId: string): KvKey {
  return [...LOOSE, writeId];
}

/** Bounds the time of one call. */
export type Step = <T>(call: Promise<T>) => Promise<T>;

/** A database, and the time limit that each call to it gets. */
export interface KvSession {
  readonly kv: Kv;
  readonly step: Step;
}

/** What SQLite says where another process has been faster than this commit's checks. */
const LOCKED = /database is locked|database is busy/i;
/** Another writer's commit of 800 KB takes about 5 ms. */
const PATIENCE_MS = 1000;
const MAX_PAUSE_MS = 20;

/** Commits, again and again while other processes hold the database. */
export async function commit(
  { step }: KvSession,
  atomic: KvAtomic,
): Promise<{ readonly ok: boolean; readonly versionstamp?: string }> {
  return await patiently(() => step(atomic.commit()));
}

/** Repeats what fails since the database is locked. */
export async function patiently<T>(call: () => Promise<T>): Promise<T> {
  const start = performance.now();
  for (;;) {
    try {
      return await call();
    } catch (error) {
      const isPatient = performance.now() - start < PATIENCE_MS;
      if (!isPatient || !LOCKED.test(String(error))) throw error;
      await new Promise((done) => setTimeout(done, MAX_PAUSE_MS * Math.random()));
    }
  }
}

/** Entries of many keys, in their order. */
export async function getAll(
  { kv, step }: KvSession,
  keys: readonly KvKey[],
): Promise<KvEntry[]> {
  const groups: Promise<KvEntry[]>[] = [];
  for (let i = 0; i < keys.length; i += MAX_KEYS) {
    groups.push(step(kv.getMany(keys.slice(i, i + MAX_KEYS))));
  }
  return (await Promise.all(groups)).flat();
}

/** Entries under a prefix; each batch is one call. */
export async function* listAll(
  { kv, step }: KvSession,
  { prefix, batchSize }: { prefix: KvKey; batchSize: number },
): AsyncGenerator<KvEntry> {
  const entries = kv.list({ prefix }, { batchSize });
  for (;;) {
    const { done, value } = await step(entries.next());
    if (done) return;
    yield value;
  }
}
