/** Reads units: which there are, and their bytes, several side by side. */

import { chainKey } from "./chain.ts";
import { type Places, readBytes, type UnitEntry, unitEntry } from "./inventory.ts";
import { getAll, type KvSession, unitKey } from "./kv.ts";
import type { LoadQuery, StoredUnit } from "./store.ts";

export interface UnitReaderOptions {
  readonly places: Places;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** A unit has been read. */
  readonly onUse: (entry: UnitEntry, unit: StoredUnit) => void;
  /** An entry, or its bytes, are not what they must be. */
  readonly onWrong: (entry: UnitEntry) => void;
}

/** Bytes that are read side by side, in units of which there may be so many. */
const READ_BYTES = 16e6;
const MIN_READERS = 4;
const MAX_READERS = 32;
/** Whole units whose manifests are asked for in one go. */
const UNITS_PER_LOOK = 40;

/** What a unit must be. */
interface Wanted {
  readonly key: string;
  readonly parent: string;
  readonly tokens: number;
}

export class UnitReader {
  readonly #options: UnitReaderOptions;

  constructor(options: UnitReaderOptions) {
    this.#options = options;
  }

  /**
   * What the query asks for, as far as it is there, whole and right. Rejects with what is wrong with the
   * database.
   */
  async load(session: KvSession, query: LoadQuery): Promise<StoredUnit[]> {
    const { tokens, unitBytes, signal } = query;
    const pageTokens = unitBytes.length - 1;
    const found: UnitEntry[] = [];
    let parent = query.parent;
    let at = 0;
    for (let isWhole = true; isWhole && at + pageTokens <= tokens.length && !signal?.aborted;) {
      const wanted: Wanted[] = [];
      let end = parent;
      for (let i = at; i + pageTokens <= tokens.length && wanted.length < UNITS_PER_LOOK;) {
        const key = chainKey(end, tokens.slice(i, i += pageTokens));
        wanted.push({ key, parent: end, tokens: pageTokens });
        end = key;
      }
      const entries = await this.#find(session, { wanted, unitBytes });
      const missing = entries.indexOf(null);
      isWhole = missing === -1;
      for (const entry of isWhole ? entries : entries.slice(0, missing)) {
        found.push(entry!);
        parent = entry!.key;
        at += pageTokens;
      }
    }
    const rest = Math.min(pageTokens - 1, tokens.length - at);
    const tails = Array.from({ length: rest }, (_, i): Wanted => {
      const length = rest - i;
      return { key: chainKey(parent, tokens.slice(at, at + length)), parent, tokens: length };
    });
    const tail = (await this.#find(session, { wanted: tails, unitBytes })).find((entry) => entry);
    if (tail) found.push(tail);
    return await this.#read(session, { found, signal });
  }

  /** The manifests of units that may be used, null for the others. */
  async #find(
    session: KvSession,
    { wanted, unitBytes }: { wanted: readonly Wanted[]; unitBytes: readonly number[] },
  ): Promise<(UnitEntry | null)[]> {
    const entries = await getAll(session, wanted.map(({ key }) => unitKey(key)));
    return entries.map((found, i) => {
      const entry = unitEntry(found);
      if (entry === null) return null;
      const { manifest } = entry;
      const { parent, tokens } = wanted[i];
      const isRight = manifest !== null && manifest.parent === parent &&
        manifest.tokens === tokens && manifest.bytes === unitBytes[tokens];
      if (!isRight) {
        this.#options.onWrong(entry);
        return null;
      }
      return manifest.expires > this.#options.now() && this.#options.places.has(manifest.place)
        ? entry
        : null;
    });
  }

  /** The units of `found` up to the first one that is not whole and right. */
  async #read(
    session: KvSession,
    { found, signal }: { found: readonly UnitEntry[]; signal: AbortSignal | undefined },
  ): Promise<StoredUnit[]> {
    if (found.length === 0) return [];
    const units: StoredUnit[] = [];
    let next = 0;
    let end = found.length;
    const reader = async () => {
      while (next < end && !signal?.aborted) {
        const i = next++;
        const entry = found[i];
        const manifest = entry.manifest!;
        const bytes = await readBytes(session, { manifest, places: this.#options.places });
        if (bytes === null) {
          end = Math.min(end, i);
          this.#options.onWrong(entry);
          return;
        }
        const { key, parent, tokens } = manifest;
        units[i] = { key, parent, tokens, bytes };
      }
    };
    const fitting = Math.floor(READ_BYTES / found[0].manifest!.bytes);
    const readers = Math.min(end, MAX_READERS, Math.max(MIN_READERS, fitting));
    await Promise.all(Array.from({ length: readers }, reader));
    if (signal?.aborted) return [];
    for (let i = 0; i < end; i++) this.#options.onUse(found[i], units[i]);
    return units.slice(0, end);
  }
}
