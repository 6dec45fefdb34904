/** Keeps each API key to its own rate (a token bucket) and to its number of requests at a time. */

import type { ApiKey, RateLimit } from "./api_keys.ts";

/** Where a key's rate stands. */
export interface Quota {
  readonly limit: number;
  /** Requests that may come at once now. */
  readonly remaining: number;
  /** Milliseconds until as many may come as ever. */
  readonly resetMs: number;
}

export type Admission =
  | { readonly admitted: true; readonly quota?: Quota; readonly leave: () => void }
  | {
    readonly admitted: false;
    readonly limit: "rate" | "concurrency";
    readonly quota?: Quota;
    /** Milliseconds after which it makes sense to try again. */
    readonly retryMs: number;
  };

/** What a key has used: the bucket's level when it was last looked at, and its open requests. */
interface Use {
  level: number;
  at: number;
  open: number;
}

/** Milliseconds after which a request may have ended. */
const CONCURRENCY_RETRY_MS = 1_000;

export class KeyLimits {
  readonly #uses = new Map<string, Use>();
  readonly #now: () => number;

  /** `now` gives milliseconds. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Counts a request in; whoever is admitted must call `leave` once. */
  enter(key: ApiKey): Admission {
    const { rate, concurrency = Infinity } = key;
    const use = this.#use(key);
    if (rate !== undefined) this.#refill(use, rate);
    const quota = () => rate === undefined ? undefined : quotaOf(use, rate);
    if (use.open >= concurrency) {
      return {
        admitted: false,
        limit: "concurrency",
        quota: quota(),
        retryMs: CONCURRENCY_RETRY_MS,
      };
    }
    if (rate !== undefined && use.level < 1) {
      const retryMs = (1 - use.level) * rate.perMs / rate.requests;
      return { admitted: false, limit: "rate", quota: quota(), retryMs };
    }
    if (rate !== undefined) use.level--;
    use.open++;
    return { admitted: true, quota: quota(), leave: () => use.open-- };
  }

  /** By name, so that a file that is read again does not fill the buckets. */
  #use({ name, rate }: ApiKey): Use {
    let use = this.#uses.get(name);
    if (use === undefined) {
      use = { level: rate?.requests ?? 0, at: this.#now(), open: 0 };
      this.#uses.set(name, use);
    }
    return use;
  }

  #refill(use: Use, { requests, perMs }: RateLimit): void {
    const now = this.#now();
    use.level = Math.min(requests, use.level + (now - use.at) * requests / perMs);
    use.at = now;
  }
}

function quotaOf({ level }: Use, { requests, perMs }: RateLimit): Quota {
  return {
    limit: requests,
    remaining: Math.floor(level),
    resetMs: (requests - level) * perMs / requests,
  };
}
