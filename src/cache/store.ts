/**
 * The tier of the prefix cache behind the pages in memory, whatever it is made of.
 *
 * An entry is a unit: PAGE_TOKENS tokens of keys and values, or fewer at the end of a prompt or an
 * answer. Its key is a hash chain over everything that its bytes depend on (see `chain.ts`), so equal
 * keys mean equal bytes, and a tenant's keys cannot be guessed by another one.
 */

import type { StoreState } from "./types.ts";

/** A unit as it is kept. */
export interface StoredUnit {
  /** Hex SHA-256; see `chainKey`. */
  readonly key: string;
  /** The key of the unit before it, or the root of the chain. */
  readonly parent: string;
  /** Tokens in it, 1 to PAGE_TOKENS. */
  readonly tokens: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

export interface LoadQuery {
  /** The key of the unit before the first token, or the root of the chain. */
  readonly parent: string;
  readonly tokens: readonly number[];
  /** Bytes of a unit of so many tokens, index 0 unused; a unit of another length is refused. */
  readonly unitBytes: readonly number[];
  /** Nobody waits any longer. */
  readonly signal?: AbortSignal;
}

/**
 * A store of units. No method ever rejects for what is wrong with the medium: reads find nothing then,
 * writes are dropped, and `state` counts it.
 */
export interface UnitStore {
  /**
   * The longest run of whole units from the first token on, then the longest shorter unit that begins
   * the rest; in order, as much of it as there is.
   */
  load(query: LoadQuery): Promise<StoredUnit[]>;
  /** Keeps a unit, some time later; drops it where too much waits already. Takes the bytes over. */
  save(unit: StoredUnit): void;
  state(): StoreState;
  /** Resolves when everything saved before has been written or dropped. */
  flush(): Promise<void>;
  close(): Promise<void>;
}
