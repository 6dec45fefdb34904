/** Entries that are torn, damaged, swapped or foreign are misses, and go. */

import { assert, assertEquals } from "@std/assert";
import {
  decodeManifest,
  decodeMark,
  encodeManifest,
  encodeMark,
  type Manifest,
} from "../../src/cache/codec.ts";
import { chunkKey, type KvKey, LOOSE, looseKey, unitKey } from "../../src/cache/kv.ts";
import { UnitsInKv } from "../../src/cache/units_in_kv.ts";
import { MemoryDatabase } from "./_memory_kv.ts";
import { chainOf, loadedTokens, MODEL, PAGE, rootOf, saveChain, tokensOf } from "./_units.ts";

const PLACE = { root: rootOf("somebody"), bytesPerToken: 2000 };
const [MINE, OTHER] = [tokensOf(1, 2 * PAGE), tokensOf(2, 2 * PAGE)];
const [FIRST, SECOND] = chainOf(MINE, PLACE).map(({ key }) => key);
const [FOREIGN] = chainOf(OTHER, PLACE).map(({ key }) => key);

function open(medium: MemoryDatabase, now?: () => number): UnitsInKv {
  return new UnitsInKv({ medium, model: MODEL, quotaBytes: 1e9, expiryMs: 86_400_000, now });
}

/** A database's entries, to be read and put. */
class Entries {
  readonly medium: MemoryDatabase;

  constructor(medium: MemoryDatabase) {
    this.medium = medium;
  }

  get(key: KvKey): Uint8Array {
    return this.medium.entries.get(JSON.stringify(key))!.value.slice();
  }

  put(key: KvKey, value: Uint8Array): void {
    const versionstamp = `z${this.medium.entries.size}`;
    this.medium.entries.set(JSON.stringify(key), { key, value, versionstamp });
  }

  remove(key: KvKey): void {
    this.medium.entries.delete(JSON.stringify(key));
  }

  manifest(key: string): Manifest {
    return decodeManifest(this.get(unitKey(key)), key)!;
  }

  /** How many entries have a key that begins so. */
  count(prefix: KvKey): number {
    const start = JSON.stringify(prefix).slice(0, -1) + ",";
    return [...this.medium.entries.keys()].filter((key) => key.startsWith(start)).length;
  }
}

/** Damages the first unit of MINE. */
const DAMAGES: Readonly<Record<string, (entries: Entries) => void>> = {
  "a chunk that is missing": (e) => e.remove(chunkKey(e.manifest(FIRST).writeId, 1)),
  "all chunks missing": (e) => {
    for (let i = 0; i < 2; i++) e.remove(chunkKey(e.manifest(FIRST).writeId, i));
  },
  "a chunk with a flipped bit": (e) => {
    const key = chunkKey(e.manifest(FIRST).writeId, 0);
    const chunk = e.get(key);
    chunk[33_333] ^= 4;
    e.put(key, chunk);
  },
  "a chunk that is too short": (e) => {
    const key = chunkKey(e.manifest(FIRST).writeId, 0);
    e.put(key, e.get(key).subarray(1));
  },
  "a chunk too many": (e) => {
    e.put(chunkKey(e.manifest(FIRST).writeId, 2), new Uint8Array(1));
  },
  "a chunk of another unit": (e) => {
    const theirs = e.get(chunkKey(e.manifest(FOREIGN).writeId, 1));
    e.put(chunkKey(e.manifest(FIRST).writeId, 1), theirs);
  },
  "a manifest with a flipped bit": (e) => {
    const value = e.get(unitKey(FIRST));
    value[60] ^= 1;
    e.put(unitKey(FIRST), value);
  },
  "a manifest that is cut off": (e) => {
    e.put(unitKey(FIRST), e.get(unitKey(FIRST)).subarray(0, 50));
  },
  "another unit's manifest": (e) => e.put(unitKey(FIRST), e.get(unitKey(FOREIGN))),
  "a manifest that names another unit's bytes": (e) => {
    const { writeId } = e.manifest(FOREIGN);
    e.put(unitKey(FIRST), encodeManifest({ ...e.manifest(FIRST), writeId }));
  },
  "a manifest with another parent": (e) => {
    e.put(unitKey(FIRST), encodeManifest({ ...e.manifest(FIRST), parent: FOREIGN }));
  },
  "a manifest with another number of tokens": (e) => {
    e.put(unitKey(FIRST), encodeManifest({ ...e.manifest(FIRST), tokens: PAGE - 1 }));
  },
};

for (const [what, damage] of Object.entries(DAMAGES)) {
  Deno.test(`${what} makes a unit a miss, which is counted, removed and written anew`, async () => {
    const entries = new Entries(new MemoryDatabase());
    const store = open(entries.medium);
    await saveChain(store, MINE, PLACE);
    await saveChain(store, OTHER, PLACE);
    damage(entries);
    assertEquals(await loadedTokens(store, MINE, PLACE), 0);
    await store.flush();
    assertEquals(store.state().pagesRefused, 1);
    assert(!entries.medium.entries.has(JSON.stringify(unitKey(FIRST))), "it is still there");
    assertEquals(entries.count(LOOSE), 0);
    await saveChain(store, MINE, PLACE);
    assertEquals(await loadedTokens(store, MINE, PLACE), 2 * PAGE);
    assertEquals(store.state().state, "ready");
    await store.close();
  });
}

Deno.test("damage behind the first unit leaves the units before it", async () => {
  const entries = new Entries(new MemoryDatabase());
  const store = open(entries.medium);
  await saveChain(store, MINE, PLACE);
  entries.remove(chunkKey(entries.manifest(SECOND).writeId, 0));
  assertEquals(await loadedTokens(store, MINE, PLACE), PAGE);
  await store.close();
});

Deno.test("what a dead writer left is removed after ten minutes, and what a slow one has not finished is not", async () => {
  const entries = new Entries(new MemoryDatabase());
  const [dead, slow] = ["d".repeat(32), "e".repeat(32)];
  const now = 1e12;
  for (const [writeId, since] of [[dead, now - 601_000], [slow, now - 1000]] as const) {
    entries.put(looseKey(writeId), encodeMark({ place: "kv", chunks: 3, since }));
    for (let i = 0; i < 3; i++) entries.put(chunkKey(writeId, i), new Uint8Array(10));
  }
  const store = open(entries.medium, () => now);
  await store.upkeep();
  await store.close();
  const left = [...entries.medium.entries.keys()];
  assertEquals(left.filter((key) => key.includes(dead)), []);
  assertEquals(left.filter((key) => key.includes(slow)).length, 4);
  assertEquals(decodeMark(entries.get(looseKey(slow)))?.chunks, 3);
});

Deno.test("the manifest of a writer whose bytes were taken for a dead one's is not written", async () => {
  const entries = new Entries(new MemoryDatabase());
  const store = open(entries.medium);
  entries.medium.slowMs = 5;
  store.save(chainOf(MINE, PLACE)[0]);
  while (entries.count(LOOSE) === 0) await new Promise((done) => setTimeout(done, 1));
  const [mark] = [...entries.medium.entries.keys()].filter((key) => key.includes("loose"));
  entries.medium.entries.delete(mark);
  await store.flush();
  assertEquals(await loadedTokens(store, MINE, PLACE), 0);
  assertEquals(entries.medium.entries.size, 0, "nothing is left of it");
  await store.close();
});
