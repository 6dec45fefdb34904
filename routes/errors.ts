/** Every error a client sees has OpenAI's shape: `{"error": {message, type, param, code}}`. */

import type { Context } from "hono";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import { CapacityError, DeadlineError, ExpertReadError, RequestError } from "../src/errors.ts";

export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string | null;
  };
}

export interface HttpError {
  readonly status: number;
  readonly body: ErrorBody;
  /** Seconds after which trying again makes sense. */
  readonly retryAfter?: number;
}

/** A request that cannot be served now, but soon: loading, full, shutting down. */
export class UnavailableError extends RequestError {
  constructor(message: string, code: string) {
    super(message, { status: 503, code });
  }
}

/** A limit of the client's own key is met. */
export class LimitError extends RequestError {
  readonly retryMs: number;

  /** `retryMs`: milliseconds after which it makes sense to try again. */
  constructor(message: string, retryMs: number) {
    super(message, { status: 429, code: "rate_limit_exceeded" });
    this.retryMs = retryMs;
  }
}

function body(message: string, options: { type: string; param?: string | null; code?: string }) {
  const { type, param = null, code = null } = options;
  return { error: { message, type, param, code } };
}

/** What the client may know of an error. Faults of ours say nothing about their cause. */
export function describeError(error: unknown): HttpError {
  if (error instanceof RequestError) {
    const type = error instanceof LimitError
      ? "requests"
      : error.status < 500
      ? "invalid_request_error"
      : "server_error";
    const described = body(error.message, {
      type,
      param: error.param,
      code: error.code ?? undefined,
    });
    return {
      status: error.status,
      body: described,
      ...(error.status === 503 && { retryAfter: 1 }),
      ...(error instanceof LimitError && { retryAfter: Math.ceil(error.retryMs / 1_000) }),
    };
  }
  if (error instanceof DeadlineError) {
    const described = body(error.message, { type: "server_error", code: "deadline_exceeded" });
    return { status: 504, body: described };
  }
  if (error instanceof CapacityError) {
    const described = body(error.message, { type: "server_error", code: "overloaded" });
    return { status: 503, body: described, retryAfter: 1 };
  }
  if (error instanceof ExpertReadError) {
    // Where the weights lie is the operator's business.
    const message = "the model's weights cannot be read at present";
    const described = body(message, { type: "server_error", code: "expert_read_failed" });
    return { status: 503, body: described, retryAfter: 1 };
  }
  return { status: 500, body: body("internal error", { type: "server_error" }) };
}

/** True for errors that the operator should hear of. */
export function isFault(error: unknown): boolean {
  return ![RequestError, CapacityError, DeadlineError].some((kind) => error instanceof kind);
}

export function errorResponse(context: Context, error: unknown): Response {
  const { status, body, retryAfter } = describeError(error);
  if (retryAfter !== undefined) context.header("retry-after", String(retryAfter));
  if (status === 413) context.header("connection", "close");
  return context.json(body, status as ContentfulStatusCode);
}
