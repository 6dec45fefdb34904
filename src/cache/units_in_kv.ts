/**
 * Units in Deno KV, or with their bytes in files: writing behind the answers, the quota and expiry;
 * reading is `unit_reader.ts`. Whatever fails below is a miss or a dropped write here.
 */

import { CHUNK_BYTES, digestOf, type Manifest, type PlaceName, randomWriteId } from "./codec.ts";
import {
  listUnits,
  LOOSE_MS,
  type Places,
  removeDead,
  removeUnit,
  touchUnit,
  type UnitEntry,
  unitEntry,
  writeUnit,
} from "./inventory.ts";
import { type KvMedium, type KvSession, unitKey } from "./kv.ts";
import { KvLink, LINK_LIMITS, type LinkLimits } from "./link.ts";
import { KvPlace, type Place } from "./places.ts";
import { chooseEvictions } from "./quota.ts";
import type { LoadQuery, StoredUnit, UnitStore } from "./store.ts";
import type { StoreState } from "./types.ts";
import { UnitReader } from "./unit_reader.ts";
import { WriteQueue } from "./write_queue.ts";

export interface UnitsInKvOptions {
  readonly medium: KvMedium;
  /** A name for lists; what a unit belongs to is in its key. */
  readonly model: string;
  readonly quotaBytes: number;
  readonly expiryMs: number;
  /** Where bytes are kept if not in the database. */
  readonly files?: Place;
  /** Bytes that may wait to be written; 64 MiB where nothing is said. */
  readonly queueBytes?: number;
  readonly limits?: LinkLimits;
  /** Called once a minute at most, with a line for the operator. */
  readonly onWarning?: (message: string) => void;
  /** Milliseconds since 1970; `Date.now` where nothing is said. */
  readonly now?: () => number;
}

const QUEUE_BYTES = 64 * 1024 * 1024;
/** Milliseconds in which one note of a unit's use is enough. */
const TOUCH_MS = 60_000;
/** Milliseconds between two looks at everything there is: other instances write too. */
const UPKEEP_MS = 60_000;
/** Such a look takes at most this share of the time. */
const UPKEEP_SHARE = 1 / 20;
export class UnitsInKv implements UnitStore {
  readonly #link: KvLink;
  readonly #options: UnitsInKvOptions;
  readonly #now: () => number;
  readonly #places: Places;
  readonly #reader: UnitReader;
  readonly #queue: WriteQueue;
  /** What there is, as of the last look and what this process has done since. */
  #entries = 0;
  #bytes = 0;
  #isCounted = false;
  readonly #counts = {
    pagesRead: 0,
    pagesWritten: 0,
    pagesDropped: 0,
    pagesEvicted: 0,
    pagesRefused: 0,
  };
  #closed = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(options: UnitsInKvOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    const places: Place[] = [new KvPlace(), ...(options.files ? [options.files] : [])];
    this.#places = new Map<PlaceName, Place>(places.map((place) => [place.name, place]));
    this.#reader = new UnitReader({
      places: this.#places,
      now: this.#now,
      onUse: (entry, unit) => this.#noteUse(entry, unit),
      onWrong: (entry) => this.#refuse(entry),
    });
    this.#queue = new WriteQueue(options.queueBytes ?? QUEUE_BYTES);
    this.#link = new KvLink(options.medium, {
      limits: options.limits ?? LINK_LIMITS,
      now: this.#now,
      onWarning: options.onWarning ?? (() => {}),
    });
    this.#scheduleUpkeep(0);
  }

  async load(query: LoadQuery): Promise<StoredUnit[]> {
    const units = await this.#link.read((session) => this.#reader.load(session, query)) ?? [];
    this.#counts.pagesRead += units.length;
    return query.signal?.aborted ? [] : units;
  }

  save(unit: StoredUnit): void {
    this.#enqueue(unit, { renew: false });
  }

  state(): StoreState {
    const { state, errors } = this.#link;
    return { state, entries: this.#entries, bytes: this.#bytes, ...this.#counts, errors };
  }

  flush(): Promise<void> {
    return this.#queue.drained();
  }

  /** Writes what waits, unless the database is unavailable. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#queue.drained();
    this.#link.close();
  }

  /**
   * Sees whether the database is still there, counts what it holds, removes what has expired, evicts what
   * is too much; behind earlier writes.
   */
  async upkeep(): Promise<void> {
    this.#queue.add(0, async () => {
      await this.#link.opened;
      await this.#link.check();
      await this.#link.write((session) => this.#makeRoom(session, 0));
    });
    await this.#queue.drained();
  }

  #noteUse(entry: UnitEntry, unit: StoredUnit): void {
    const { used, dropped } = entry.manifest!;
    const now = this.#now();
    if (now - used < TOUCH_MS) return;
    if (dropped - now < this.#options.expiryMs) {
      // The database will drop it within the time that this use entitles it to.
      this.#enqueue({ ...unit, bytes: unit.bytes.slice() }, { renew: true });
    } else {
      this.#queue.add(0, () => this.#touch(entry));
    }
  }

  async #touch(entry: UnitEntry): Promise<void> {
    const used = this.#now();
    const expires = used + this.#options.expiryMs;
    await this.#link.write((session) => touchUnit(session, { entry, used, expires }));
  }

  /** Removes an entry that is not what it must be, unless it has changed since. */
  #refuse(entry: UnitEntry): void {
    this.#queue.add(0, async () => {
      const removal = { entry, places: this.#places, now: this.#now() };
      const removed = await this.#link.write((session) => removeUnit(session, removal));
      if (!removed) return;
      this.#counts.pagesRefused++;
      this.#uncount(entry);
    });
  }

  #enqueue(unit: StoredUnit, { renew }: { renew: boolean }): void {
    const isTaken = !this.#closed && unit.bytes.length <= this.#options.quotaBytes &&
      this.#link.canWrite && this.#queue.add(unit.bytes.length, async () => {
        await this.#link.opened;
        const outcome = await this.#link.write((session) => this.#write(session, { unit, renew }));
        if (outcome === undefined) this.#counts.pagesDropped++;
      });
    if (!isTaken) this.#counts.pagesDropped++;
  }

  /** True where it has been written, false where it, or another writer's, was there. */
  async #write(
    session: KvSession,
    { unit, renew }: { unit: StoredUnit; renew: boolean },
  ): Promise<boolean> {
    const { key, parent, tokens, bytes } = unit;
    const { model, quotaBytes, expiryMs, files } = this.#options;
    const replaces = unitEntry(await session.step(session.kv.get(unitKey(key))));
    const old = replaces?.manifest;
    const created = this.#now();
    if (old && old.expires > created && old.bytes === bytes.length) {
      const isOld = old.dropped - created < expiryMs;
      if (!isOld || !renew) {
        if (created - old.used >= TOUCH_MS) await this.#touch(replaces);
        return false;
      }
    }
    const isRoom = this.#isCounted && this.#bytes + bytes.length <= quotaBytes;
    if (!isRoom) await this.#makeRoom(session, bytes.length);
    const manifest: Manifest = {
      key,
      parent,
      model,
      writeId: randomWriteId(),
      place: files?.name ?? "kv",
      tokens,
      bytes: bytes.length,
      chunkBytes: CHUNK_BYTES,
      digest: await digestOf(bytes),
      created,
      used: created,
      expires: created + expiryMs,
      dropped: created + 2 * expiryMs,
    };
    const places = this.#places;
    const written = await writeUnit(session, { unit: { manifest, bytes, replaces }, places });
    if (!written) return false;
    this.#counts.pagesWritten++;
    if (replaces) this.#uncount(replaces);
    this.#entries++;
    this.#bytes += bytes.length;
    return true;
  }

  /** Counts what there is and removes what may not stay, so that `more` bytes fit. */
  async #makeRoom(session: KvSession, more: number): Promise<void> {
    const now = this.#now();
    const places = this.#places;
    const kept: (Manifest & { readonly entry: UnitEntry })[] = [];
    for await (const entry of listUnits(session)) {
      const { manifest } = entry;
      if (manifest !== null && manifest.expires > now) kept.push({ ...manifest, entry });
      else if (await removeUnit(session, { entry, places, now }) && manifest === null) {
        this.#counts.pagesRefused++;
      }
    }
    this.#isCounted = true;
    this.#entries = kept.length;
    this.#bytes = kept.reduce((sum, { bytes }) => sum + bytes, 0);
    const { quotaBytes } = this.#options;
    for (const { entry } of chooseEvictions(kept, { quotaBytes, more })) {
      if (!await removeUnit(session, { entry, places, now })) continue;
      this.#counts.pagesEvicted++;
      this.#uncount(entry);
    }
    await removeDead(session, { places, before: now - LOOSE_MS });
  }

  #uncount({ manifest }: UnitEntry): void {
    this.#entries = Math.max(0, this.#entries - 1);
    this.#bytes = Math.max(0, this.#bytes - (manifest?.bytes ?? 0));
  }

  #scheduleUpkeep(delayMs: number): void {
    this.#timer = setTimeout(async () => {
      const start = performance.now();
      await this.upkeep();
      const tookMs = performance.now() - start;
      if (!this.#closed) this.#scheduleUpkeep(Math.max(UPKEEP_MS, tookMs / UPKEEP_SHARE));
    }, delayMs);
  }
}
