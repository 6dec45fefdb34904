/** A database in memory whose calls can be made to fail, to hang, or to take their time. */

import type { Kv, KvAtomic, KvEntry, KvKey, KvMedium } from "../../src/cache/kv.ts";

interface Entry {
  readonly key: KvKey;
  readonly value: Uint8Array;
  readonly versionstamp: string;
}

export class MemoryDatabase implements KvMedium {
  readonly entries = new Map<string, Entry>();
  opened = 0;
  calls = 0;
  /** What every call rejects with, and opening; null where all is well. */
  error: Error | null = null;
  /** What commits reject with. */
  writeError: Error | null = null;
  hangs = false;
  slowMs = 0;
  #versions = 0;

  async open(): Promise<Kv> {
    this.opened++;
    await this.#call();
    return {
      get: async (key) => {
        await this.#call();
        return this.#read(key);
      },
      getMany: async (keys) => {
        if (keys.length > 10) throw new TypeError("too many keys");
        await this.#call();
        return keys.map((key) => this.#read(key));
      },
      list: ({ prefix }) => this.#list(prefix),
      atomic: () => this.#atomic(),
      close: () => {},
    };
  }

  isThere(): Promise<boolean> {
    return Promise.resolve(true);
  }

  setAside(): Promise<string | null> {
    this.entries.clear();
    this.error = null;
    return Promise.resolve("elsewhere");
  }

  async #call(): Promise<void> {
    this.calls++;
    if (this.hangs) await new Promise<never>(() => {});
    if (this.slowMs > 0) await new Promise((done) => setTimeout(done, this.slowMs));
    else await Promise.resolve();
    if (this.error !== null) throw this.error;
  }

  #read(key: KvKey): KvEntry {
    const entry = this.entries.get(JSON.stringify(key));
    return entry ?? { key, value: null, versionstamp: null };
  }

  async *#list(prefix: KvKey): AsyncGenerator<KvEntry> {
    await this.#call();
    const start = JSON.stringify(prefix).slice(0, -1) + ",";
    const found = [...this.entries].filter(([key]) => key.startsWith(start)).map(([, e]) => e);
    yield* found.sort((a, b) => compareKeys(a.key, b.key));
  }

  #atomic(): KvAtomic {
    const checks: { key: KvKey; versionstamp: string | null }[] = [];
    const changes: (() => void)[] = [];
    const versionstamp = String(++this.#versions).padStart(20, "0");
    let bytes = 0;
    const atomic: KvAtomic = {
      check: (check) => (checks.push(check), atomic),
      set: (key, value) => {
        if (value.length > 65_535) throw new TypeError("value too large");
        bytes += value.length + JSON.stringify(key).length;
        const entry = { key, value: value.slice(), versionstamp };
        changes.push(() => this.entries.set(JSON.stringify(key), entry));
        return atomic;
      },
      delete: (key) => (changes.push(() => this.entries.delete(JSON.stringify(key))), atomic),
      commit: async () => {
        if (bytes > 819_200 || changes.length > 1000) throw new TypeError("commit too large");
        await this.#call();
        if (this.writeError !== null) throw this.writeError;
        if (checks.some((c) => this.#read(c.key).versionstamp !== c.versionstamp)) {
          return { ok: false };
        }
        for (const change of changes) change();
        return { ok: true, versionstamp };
      },
    };
    return atomic;
  }
}

function compareKeys(a: KvKey, b: KvKey): number {
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    if (a[i] !== b[i]) return a[i] < b[i] ? -1 : 1;
  }
  return a.length - b.length;
}
