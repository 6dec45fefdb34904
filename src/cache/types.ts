/** What the engine and the command line know of the prefix cache behind the pages in memory. */

/** Where prefixes are kept beyond the process. */
export interface CacheOptions {
  /** A folder for a local Deno KV database (`kv.sqlite3`); made where it is missing. */
  readonly state?: string;
  /** The URL of a KV Connect server, used instead of a local database; its token is DENO_KV_ACCESS_TOKEN. */
  readonly url?: string;
  /** A folder for the pages themselves, where Deno KV shall hold their manifests only. */
  readonly files?: string;
  /** Bytes that all entries may take together; the least recently used ones go first. */
  readonly quotaBytes: number;
  /** Milliseconds after which an entry that nobody used expires. */
  readonly expiryMs: number;
}

/** How the store fares; counts since it was opened. */
export interface StoreState {
  /** "ready", or why nothing is read or written at present. */
  readonly state: "ready" | "opening" | "unavailable";
  readonly entries: number;
  readonly bytes: number;
  readonly pagesRead: number;
  readonly pagesWritten: number;
  /** Pages that were not written since the queue was full. */
  readonly pagesDropped: number;
  readonly pagesEvicted: number;
  /** Entries that were damaged, torn or foreign. */
  readonly pagesRefused: number;
  readonly errors: number;
}
