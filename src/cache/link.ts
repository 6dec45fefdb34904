/**
 * The connection to a database that may fail in any way. Every call has a time limit; after a failure
 * nothing is tried for a while, and then the connection is made anew. Reading and writing fail apart: a
 * full disk can still be read.
 */

import { BackOff, type BackOffLimits } from "./back_off.ts";
import type { Kv, KvMedium, KvSession } from "./kv.ts";
import type { StoreState } from "./types.ts";

export interface LinkLimits extends BackOffLimits {
  /** Milliseconds that opening may take, and any call that reads or writes. */
  readonly openMs: number;
  readonly callMs: number;
}

export const LINK_LIMITS: LinkLimits = {
  openMs: 3000,
  callMs: 1000,
  retryMs: 250,
  maxRetryMs: 30_000,
};

export interface LinkOptions {
  readonly limits: LinkLimits;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  readonly onWarning: (message: string) => void;
}

/** Milliseconds between two warnings. */
const WARNING_MS = 60_000;

/** What databases say of files that are no longer one, or not what they were made as. */
const MALFORMED = new RegExp(
  "malformed|not a database|corrupt|no such (table|column)|already exists|SQL logic|" +
    "constraint failed|column type|datatype mismatch|returned no rows|" +
    "invalid tag|invalid utf8|unknown bigint tag|value encoding|deserialize|end of file",
  "i",
);

export class KvLink {
  readonly #medium: KvMedium;
  readonly #options: LinkOptions;
  #kv: Kv | null = null;
  /** Resolves when the first attempt to open is over. */
  readonly opened: Promise<void>;
  #opening = true;
  #closed = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #readBackOff: BackOff;
  readonly #writeBackOff: BackOff;
  #noWritesUntil = -Infinity;
  #warnedAt = -Infinity;
  #errors = 0;

  constructor(medium: KvMedium, options: LinkOptions) {
    this.#medium = medium;
    this.#options = options;
    this.#readBackOff = new BackOff(options.limits);
    this.#writeBackOff = new BackOff(options.limits);
    this.opened = this.#open().finally(() => this.#opening = false);
  }

  get state(): StoreState["state"] {
    if (this.#opening) return "opening";
    return this.#kv !== null && this.canWrite ? "ready" : "unavailable";
  }

  get canWrite(): boolean {
    return (this.#kv !== null || this.#opening) && this.#options.now() >= this.#noWritesUntil;
  }

  get errors(): number {
    return this.#errors;
  }

  /** What `action` reads; undefined where it fails or there is no connection. */
  async read<T>(action: (session: KvSession) => Promise<T>): Promise<T | undefined> {
    if (this.#opening) await this.#waitForOpening();
    const kv = this.#kv;
    if (kv === null) return undefined;
    try {
      const result = await action(this.#session(kv));
      this.#readBackOff.reset();
      return result;
    } catch (error) {
      await this.#failReading(kv, error);
      return undefined;
    }
  }

  /** What `action` says of its writes; undefined where they fail or writing isn't tried at present. */
  async write<T>(action: (session: KvSession) => Promise<T>): Promise<T | undefined> {
    const kv = this.#kv;
    if (kv === null || !this.canWrite) return undefined;
    try {
      const result = await action(this.#session(kv));
      this.#writeBackOff.reset();
      return result;
    } catch (error) {
      if (MALFORMED.test(messageOf(error))) await this.#failReading(kv, error);
      else if (this.#kv === kv) {
        this.#errors++;
        this.#noWritesUntil = this.#options.now() + this.#writeBackOff.next();
        this.#warn(`cannot write the prefix cache: ${messageOf(error)}; going on without it`);
      }
      return undefined;
    }
  }

  /** Opens anew where the database has been removed, or another one has taken its place. */
  async check(): Promise<void> {
    const kv = this.#kv;
    if (kv === null || await this.#medium.isThere()) return;
    await this.#failReading(kv, new Error("the database has been removed or replaced"));
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#drop();
  }

  /** A reader does not wait for a slow opening longer than for a slow call. */
  async #waitForOpening(): Promise<void> {
    const { callMs } = this.#options.limits;
    await within(this.opened, { ms: callMs, what: "opening" }).catch(() => {});
  }

  #session(kv: Kv): KvSession {
    const { callMs } = this.#options.limits;
    return { kv, step: (call) => within(call, { ms: callMs, what: "a call" }) };
  }

  async #failReading(kv: Kv, error: unknown): Promise<void> {
    // Calls that were under way together fail together: once is enough.
    if (this.#kv !== kv) return;
    this.#errors++;
    this.#drop();
    await this.#recover("read", error);
  }

  /** Makes the connection; what goes wrong leaves it to be tried again later. */
  async #open(): Promise<void> {
    const { openMs } = this.#options.limits;
    const opening = this.#medium.open();
    try {
      const kv = await within(opening, { ms: openMs, what: "opening" });
      if (this.#closed) return closeQuietly(kv);
      try {
        await within(kv.get(["sluice"]), { ms: openMs, what: "the first call" });
      } catch (error) {
        closeQuietly(kv);
        throw error;
      }
      if (this.#closed) return closeQuietly(kv);
      this.#kv = kv;
    } catch (error) {
      opening.then(closeLate, () => {});
      if (this.#closed) return;
      this.#errors++;
      await this.#recover("open", error);
    }
    function closeLate(kv: Kv): void {
      closeQuietly(kv);
    }
  }

  async #recover(action: string, error: unknown): Promise<void> {
    let waitMs = this.#readBackOff.next();
    let outcome = "going on without it";
    if (MALFORMED.test(messageOf(error))) {
      try {
        const place = await this.#medium.setAside();
        if (place !== null) {
          outcome = `it was set aside as ${place}, and is made anew`;
          waitMs = 0;
        }
      } catch (reason) {
        outcome = `it cannot be set aside: ${messageOf(reason)}; going on without it`;
      }
    }
    this.#warn(`cannot ${action} the prefix cache: ${messageOf(error)}; ${outcome}`);
    if (!this.#closed) this.#timer = setTimeout(() => void this.#open(), waitMs);
  }

  #drop(): void {
    if (this.#kv !== null) closeQuietly(this.#kv);
    this.#kv = null;
  }

  #warn(message: string): void {
    const now = this.#options.now();
    if (now - this.#warnedAt < WARNING_MS) return;
    this.#warnedAt = now;
    this.#options.onWarning(message);
  }
}

/** Rejects where `call` takes longer than `ms`; its result is lost then. */
async function within<T>(
  call: Promise<T>,
  { ms, what }: { ms: number; what: string },
): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    return await Promise.race([
      call,
      new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error(`${what} took longer than ${ms} ms`)), ms);
      }),
    ]);
  } finally {
    clearTimeout(timer);
  }
}

function closeQuietly(kv: Kv): void {
  try {
    kv.close();
  } catch {
    // It was closed already, or is beyond it.
  }
}

/** What the runtime refuses is told with what would let it through. */
function messageOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const [, kind, what] = /Requires (\w+) access to "([^"]+)"/.exec(message) ?? [];
  return kind === undefined ? message : `${kind} access to ${what} is not permitted, must be in ` +
    `--allow-${kind} of the task in deno.json (add ${what})`;
}
