/**
 * Who may ask. A page of a stranger's site that is open in the user's browser can reach a server on
 * 127.0.0.1, directly or by pointing its own name there (DNS rebinding): hence lists of hosts and
 * origins. No origin is trusted by default, so no CORS header is ever sent.
 */

import type { Context, MiddlewareHandler } from "hono";
import { RequestError } from "../src/errors.ts";
import { errorResponse } from "./errors.ts";

/** Names under which a server on this machine is reached. */
export const LOOPBACK_HOSTS: readonly string[] = Object.freeze(["127.0.0.1", "localhost", "[::1]"]);

/** Stands in a list of hosts for every address literal: rebinding needs a name. */
export const ANY_ADDRESS = "any-address";

export interface GuardOptions {
  /** Host names without port, IPv6 in brackets; "any" accepts every one. */
  readonly hosts: readonly string[] | "any";
  /** Origins such as `https://chat.example` that may call from a browser. */
  readonly origins: readonly string[];
}

const IPV4 = /^\d{1,3}(\.\d{1,3}){3}$/;
const MAX_AGE_S = 600;
/** What a page may send, and what it may read of an answer. */
const ALLOWED_HEADERS =
  "authorization, content-type, traceparent, x-api-key, x-request-id, x-sluice-deadline-ms";
const EXPOSED_HEADERS = "retry-after, x-ratelimit-limit-requests, " +
  "x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-request-id, x-sluice-cache";

/** Host without port and trailing dot, in lower case. */
function hostName(host: string): string {
  return host.toLowerCase().replace(/:\d+$/, "").replace(/\.$/, "");
}

function hostAllowed(host: string, allowed: readonly string[] | "any"): boolean {
  if (allowed === "any") return true;
  const name = hostName(host);
  if (allowed.some((other) => other.toLowerCase() === name)) return true;
  return allowed.includes(ANY_ADDRESS) && (IPV4.test(name) || name.startsWith("["));
}

/** The page's origin is the server's own. */
function sameOrigin(origin: string, host: string): boolean {
  const url = URL.parse(origin);
  return url !== null && url.host === host.toLowerCase();
}

function allowOrigin(context: Context, origin: string): void {
  context.header("access-control-allow-origin", origin);
  context.header("vary", "origin");
  context.header("access-control-expose-headers", EXPOSED_HEADERS);
}

function preflight(context: Context, origin: string): Response {
  allowOrigin(context, origin);
  context.header("access-control-allow-methods", "GET, POST");
  context.header("access-control-allow-headers", ALLOWED_HEADERS);
  context.header("access-control-max-age", String(MAX_AGE_S));
  return context.body(null, 204);
}

export function guard({ hosts, origins }: GuardOptions): MiddlewareHandler {
  const known = origins.map((origin) => origin.toLowerCase());
  return async (context, next) => {
    const host = context.req.header("host") ?? new URL(context.req.url).host;
    if (!hostAllowed(host, hosts)) {
      return errorResponse(
        context,
        new RequestError(
          `host ${JSON.stringify(host.slice(0, 80))} is not one of this server's names`,
          { status: 403, code: "host_not_allowed" },
        ),
      );
    }
    const origin = context.req.header("origin");
    const trusted = origin !== undefined && known.includes(origin.toLowerCase());
    if (origin !== undefined && !trusted && !sameOrigin(origin, host)) {
      return errorResponse(
        context,
        new RequestError("this server does not answer pages of other sites", {
          status: 403,
          code: "origin_not_allowed",
        }),
      );
    }
    const asked = context.req.header("access-control-request-method") !== undefined;
    if (trusted && context.req.method === "OPTIONS" && asked) return preflight(context, origin);
    await next();
    if (trusted) allowOrigin(context, origin);
  };
}
