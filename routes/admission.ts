/** Who is let in where API keys are set: the key, its rate, and its number of requests at a time. */

import type { Context } from "hono";
import { RequestError } from "../src/errors.ts";
import type { KeyRing } from "../src/server/api_keys.ts";
import { KeyLimits, type Quota } from "../src/server/key_limits.ts";
import { LimitError } from "./errors.ts";
import { recordOf } from "./record.ts";

/** The key as the client sends it: `Authorization: Bearer KEY` or `x-api-key: KEY`. */
function presentedKey(context: Context): string | undefined {
  const authorization = context.req.header("authorization");
  if (authorization === undefined) return context.req.header("x-api-key");
  return /^bearer +(\S+) *$/i.exec(authorization)?.[1];
}

/** `1.5s`, `6m0s`: how OpenAI's headers write a span of time. */
export function spanOfTime(ms: number): string {
  if (ms < 1_000) return `${Math.ceil(ms)}ms`;
  const seconds = Math.ceil(ms / 1_000);
  const minutes = Math.floor(seconds / 60);
  return minutes > 0 ? `${minutes}m${seconds % 60}s` : `${seconds}s`;
}

function tellQuota(context: Context, { limit, remaining, resetMs }: Quota): void {
  context.header("x-ratelimit-limit-requests", String(limit));
  context.header("x-ratelimit-remaining-requests", String(remaining));
  context.header("x-ratelimit-reset-requests", spanOfTime(resetMs));
}

/** The door of one app. */
export class Admission {
  readonly #keys: KeyRing;
  readonly #limits = new KeyLimits();

  constructor(keys: KeyRing) {
    this.#keys = keys;
  }

  /** Notes whose request it is. Throws RequestError (401) or LimitError (429). */
  admit(context: Context): void {
    const record = recordOf(context);
    const presented = presentedKey(context);
    const key = presented === undefined ? undefined : this.#keys.find(presented);
    if (key === undefined) {
      context.header("www-authenticate", "Bearer");
      const what = presented === undefined ? "the API key is missing" : "the API key is not valid";
      throw new RequestError(`${what}, must be sent as Authorization: Bearer KEY`, {
        status: 401,
        code: "invalid_api_key",
      });
    }
    record.key = key;
    const admission = this.#limits.enter(key);
    if (admission.quota !== undefined) tellQuota(context, admission.quota);
    if (admission.admitted) {
      record.onEnd(admission.leave);
      return;
    }
    const { limit, retryMs } = admission;
    const message = limit === "rate"
      ? "this API key's requests come too fast, must keep to its rate"
      : `this API key has ${key.concurrency} requests in progress, must have fewer`;
    throw new LimitError(message, retryMs);
  }
}
