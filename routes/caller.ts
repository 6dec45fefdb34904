/** For whom a request is computed: whose turn it counts to, whose prefixes it shares, how long it may take. */

import type { Context } from "hono";
import { DeadlineError, RequestError } from "../src/errors.ts";
import type { ApiKey } from "../src/server/api_keys.ts";
import { tenantOf } from "../src/server/tenant.ts";
import type { TextOptions } from "../src/text/types.ts";
import type { Fields } from "./fields.ts";
import { recordOf, type RequestRecord } from "./record.ts";

/** What a request says of itself. */
export interface CallerFields {
  readonly userId: string | undefined;
  readonly user: string | undefined;
  readonly cacheSalt: string | undefined;
  /** False: nothing is kept, and nothing kept is used. */
  readonly cachePrompt: boolean;
  readonly priority: number | undefined;
  readonly deadlineMs: number | undefined;
}

const MAX_NAME_LENGTH = 512;
/** A day. */
const MAX_DEADLINE_MS = 86_400_000;
const PRIORITIES = Object.freeze({ min: -1_000_000, max: 1_000_000 });
const DEADLINE_HEADER = "x-sluice-deadline-ms";

/** Throws RequestError naming the first wrong field. */
export function readCallerFields(fields: Fields): CallerFields {
  const name = (field: string) => fields.string(field, { maxLength: MAX_NAME_LENGTH });
  // A hint where to look, which one process does not need: pages are found by what they hold.
  name("prompt_cache_key");
  return {
    userId: name("user_id"),
    user: name("user"),
    cacheSalt: name("cache_salt"),
    cachePrompt: fields.boolean("cache_prompt") ?? true,
    priority: fields.integer("priority", PRIORITIES),
    deadlineMs: fields.integer("deadline_ms", { min: 1, max: MAX_DEADLINE_MS }),
  };
}

function readDeadlineHeader(context: Context): number | undefined {
  const text = context.req.header(DEADLINE_HEADER);
  if (text === undefined) return undefined;
  const value = /^\d{1,8}$/.test(text) ? Number(text) : 0;
  if (value >= 1 && value <= MAX_DEADLINE_MS) return value;
  throw new RequestError(
    `cannot read the request: the header ${DEADLINE_HEADER} is not a whole number of milliseconds ` +
      `from 1 to ${MAX_DEADLINE_MS}`,
    { param: DEADLINE_HEADER },
  );
}

function tenantFor(
  { cachePrompt, ...parts }: CallerFields,
  { key, n }: { key: ApiKey | undefined; n: number },
): string | null {
  if (cachePrompt) return tenantOf({ key, ...parts });
  // Choices of one prompt share what it took, and nobody else does.
  return n > 1 ? crypto.randomUUID() : null;
}

export type CallerOptions = Pick<TextOptions, "client" | "priority" | "tenant" | "deadlineMs">;

export class Caller {
  readonly #record: RequestRecord;
  readonly #options: CallerOptions;

  /** `deadlineMs` holds where the request names no deadline; undefined: there is none. */
  constructor(
    context: Context,
    { fields, n, deadlineMs }: { fields: CallerFields; n: number; deadlineMs?: number },
  ) {
    this.#record = recordOf(context);
    const { key } = this.#record;
    const asked = [fields.deadlineMs, readDeadlineHeader(context)].filter((ms) => ms !== undefined);
    const priority = fields.priority ?? key?.priority ?? 0;
    this.#options = {
      client: key?.name,
      priority: Math.max(priority, key?.priority ?? priority),
      tenant: tenantFor(fields, { key, n }),
      deadlineMs: asked.length > 0 ? Math.min(...asked) : deadlineMs,
    };
  }

  /**
   * For a choice that is asked for now: of the deadline, which counts from the request's arrival, what is
   * left. Throws DeadlineError where that is nothing.
   */
  options(): CallerOptions {
    const { deadlineMs } = this.#options;
    if (deadlineMs === undefined) return this.#options;
    const left = Math.ceil(deadlineMs - this.#record.elapsedMs());
    if (left <= 0) {
      throw new DeadlineError(`cannot answer: ${deadlineMs} ms have passed, it must take less`);
    }
    return { ...this.#options, deadlineMs: left };
  }
}
