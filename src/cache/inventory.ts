/**
 * What lies in the database and how it gets in and out: manifests, and bytes that a manifest names. A
 * mark says which bytes are loose, from before the first of them is written until their manifest is
 * there, and again from the manifest's end until the last of them is gone. So whoever dies in between
 * leaves nothing that can't be found.
 */

import {
  chunkCount,
  decodeManifest,
  decodeMark,
  digestOf,
  encodeManifest,
  encodeMark,
  type Manifest,
  type PlaceName,
} from "./codec.ts";
import {
  commit,
  type KvAtomic,
  type KvEntry,
  type KvSession,
  listAll,
  LOOSE,
  looseKey,
  unitKey,
  UNITS,
} from "./kv.ts";
import type { Place } from "./places.ts";

/** The places that this process can reach. */
export type Places = ReadonlyMap<PlaceName, Place>;

/** A manifest, and the state of the database that it was read in. */
export interface UnitEntry {
  readonly key: string;
  /** Null where it is damaged. */
  readonly manifest: Manifest | null;
  readonly versionstamp: string;
}

/** Manifests that one call reads. */
const UNITS_PER_READ = 500;
/** Milliseconds from when on loose bytes are taken to be a dead writer's. */
export const LOOSE_MS = 10 * 60_000;

export function unitEntry({ key, value, versionstamp }: KvEntry): UnitEntry | null {
  if (versionstamp === null) return null;
  const name = String(key[UNITS.length]);
  return { key: name, manifest: decodeManifest(value, name), versionstamp };
}

export async function* listUnits(session: KvSession): AsyncGenerator<UnitEntry> {
  for await (const entry of listAll(session, { prefix: UNITS, batchSize: UNITS_PER_READ })) {
    const unit = unitEntry(entry);
    if (unit !== null) yield unit;
  }
}

/** A unit's bytes, whole and right; null otherwise. */
export async function readBytes(
  session: KvSession,
  { manifest, places }: { manifest: Manifest; places: Places },
): Promise<Uint8Array<ArrayBuffer> | null> {
  const bytes = await places.get(manifest.place)?.read(session, manifest);
  if (bytes === undefined || bytes === null) return null;
  return await digestOf(bytes) === manifest.digest ? bytes : null;
}

export interface NewUnit {
  readonly manifest: Manifest;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** What is there under its key, which it replaces. */
  readonly replaces: UnitEntry | null;
}

/** Writes bytes, then their manifest. False where another writer was faster: its unit stands. */
export async function writeUnit(
  session: KvSession,
  { unit, places }: { unit: NewUnit; places: Places },
): Promise<boolean> {
  const { kv } = session;
  const { manifest, bytes, replaces } = unit;
  const { key, writeId, created } = manifest;
  const place = places.get(manifest.place)!;
  const expireIn = manifest.dropped - created;
  const mark = encodeMark({ place: place.name, chunks: chunkCount(manifest), since: created });
  const marked = await commit(session, kv.atomic().set(looseKey(writeId), mark, { expireIn }));
  await place.write(session, { writeId, bytes, expireIn });
  const atomic = kv.atomic()
    .check({ key: unitKey(key), versionstamp: replaces?.versionstamp ?? null })
    // Gone where another process took the bytes for a dead writer's and removed them.
    .check({ key: looseKey(writeId), versionstamp: marked.versionstamp! })
    .set(unitKey(key), encodeManifest(manifest), { expireIn })
    .delete(looseKey(writeId));
  const old = replaces?.manifest;
  if (old) loosen(atomic, { manifest: old, since: created });
  if (!(await commit(session, atomic)).ok) {
    await removeLoose(session, { writeId, chunks: chunkCount(manifest), place });
    return false;
  }
  const oldPlace = old && places.get(old.place);
  if (oldPlace) {
    const { writeId } = old;
    await removeLoose(session, { writeId, chunks: chunkCount(old), place: oldPlace });
  }
  return true;
}

/** Removes a unit. False where it has changed since it was read: it stands then. */
export async function removeUnit(
  session: KvSession,
  { entry, places, now }: { entry: UnitEntry; places: Places; now: number },
): Promise<boolean> {
  const { kv } = session;
  const { key, manifest, versionstamp } = entry;
  const atomic = kv.atomic().check({ key: unitKey(key), versionstamp }).delete(unitKey(key));
  if (manifest !== null) loosen(atomic, { manifest, since: now });
  if (!(await commit(session, atomic)).ok) return false;
  const place = manifest && places.get(manifest.place);
  if (place) {
    await removeLoose(session, { writeId: manifest.writeId, chunks: chunkCount(manifest), place });
  }
  return true;
}

/** Notes that a unit was used. Where another one has done so, or it is gone, nothing happens. */
export async function touchUnit(
  session: KvSession,
  { entry, used, expires }: { entry: UnitEntry; used: number; expires: number },
): Promise<void> {
  const { key, manifest, versionstamp } = entry;
  if (manifest === null || manifest.dropped <= used) return;
  const value = encodeManifest({
    ...manifest,
    used,
    expires: Math.min(expires, manifest.dropped),
  });
  await commit(
    session,
    session.kv.atomic().check({ key: unitKey(key), versionstamp })
      .set(unitKey(key), value, { expireIn: manifest.dropped - used }),
  );
}

/** Removes the loose bytes of writers that died before `before`; returns how many units' they were. */
export async function removeDead(
  session: KvSession,
  { places, before }: { places: Places; before: number },
): Promise<number> {
  let removed = 0;
  for await (const { key, value } of listAll(session, { prefix: LOOSE, batchSize: 100 })) {
    const writeId = String(key[LOOSE.length]);
    const mark = decodeMark(value);
    if (mark !== null && mark.since >= before) continue;
    const place = mark && places.get(mark.place);
    // Bytes in a place out of reach are another process's to remove.
    if (mark !== null && !place) continue;
    if (place) await removeLoose(session, { writeId, chunks: mark.chunks, place });
    else await commit(session, session.kv.atomic().delete(looseKey(writeId)));
    removed++;
  }
  return removed;
}

/**
 * Removes bytes that neither a manifest nor a young mark names. Looks at all bytes in all places, and
 * takes as long as that takes. Returns how many units' they were.
 */
export async function removeOrphans(
  session: KvSession,
  { places, before }: { places: Places; before: number },
): Promise<number> {
  let removed = await removeDead(session, { places, before });
  for (const place of places.values()) {
    const found = new Map<string, number>();
    for await (const { writeId, chunks } of place.names(session)) found.set(writeId, chunks);
    // Names first, manifests and marks afterwards: a writer at work has one of the two at any time.
    for await (const { key } of listAll(session, { prefix: LOOSE, batchSize: 100 })) {
      found.delete(String(key[LOOSE.length]));
    }
    for await (const { manifest } of listUnits(session)) {
      if (manifest !== null) found.delete(manifest.writeId);
    }
    for (const [writeId, chunks] of found) {
      await removeLoose(session, { writeId, chunks, place });
      removed++;
    }
  }
  return removed;
}

/** Adds to the removal of a manifest that its bytes are loose from now on. */
function loosen(
  atomic: KvAtomic,
  { manifest, since }: { manifest: Manifest; since: number },
): void {
  const { writeId, place, dropped } = manifest;
  const mark = encodeMark({ place, chunks: chunkCount(manifest), since });
  atomic.set(looseKey(writeId), mark, { expireIn: Math.max(LOOSE_MS, dropped - since) });
}

/** Removes loose bytes, and then their mark. */
async function removeLoose(
  session: KvSession,
  { writeId, chunks, place }: { writeId: string; chunks: number; place: Place },
): Promise<void> {
  // A writer that is still at it finds its mark gone and gives up; what it wrote meanwhile expires.
  await place.remove(session, { writeId, chunks });
  await commit(session, session.kv.atomic().delete(looseKey(writeId)));
}
