/**
 * One request to a web server, asked again where the network is at fault. Owns retries, time-outs,
 * credentials, and what an error may say about a server; what an answer must be is the caller's.
 */

import { FormatError } from "../errors.ts";

/** Milliseconds before the second and the third try. */
const PAUSES_MS = [100, 300];

/** Milliseconds without a byte after which an answer counts as broken off. */
export const STALL_MS = 20_000;

export interface WebRequest {
  /** May hold a user and a password; both are sent as the header for them, and never shown. */
  readonly url: string;
  /** Begins every message: `read "model.gguf"`. */
  readonly action: string;
  /** First and last byte wanted, asked for at every try; all of them without it. */
  readonly range?: () => readonly [number, number];
  /** Ends the request. */
  readonly signal?: AbortSignal;
  /** By default STALL_MS. */
  readonly stallMs?: number;
}

/** An answer with a status below 500. */
export interface WebAnswer {
  readonly status: number;
  readonly headers: Headers;
  /** Gives the body to `take` piece by piece; `take` may throw to end it. */
  receive(take: (piece: Uint8Array) => void): Promise<void>;
}

/** Something that another try may put right. */
class NetworkFault {
  readonly what: string;
  readonly is: string;
  readonly must: string;

  constructor(what: string, is: string, must: string) {
    this.what = what;
    this.is = is;
    this.must = must;
  }
}

/**
 * Sends a request and lets `use` take the answer. Both are done again, three times in all, where the
 * connection fails, the answer breaks off or its status is 500 or above. Throws FormatError where
 * that did not help, where the process may not reach the server, and whatever `use` throws.
 */
export async function ask<T>(
  request: WebRequest,
  use: (answer: WebAnswer) => Promise<T>,
): Promise<T> {
  for (let tries = 1;; tries++) {
    try {
      return await askOnce(request, use);
    } catch (error) {
      if (!(error instanceof NetworkFault)) throw error;
      const { what, is, must } = error;
      if (tries > PAUSES_MS.length) {
        throw FormatError.of(request.action, what, is, `${must} (tried ${tries} times)`);
      }
      await pause(PAUSES_MS[tries - 1], request.signal);
    }
  }
}

async function askOnce<T>(
  request: WebRequest,
  use: (answer: WebAnswer) => Promise<T>,
): Promise<T> {
  const { action, signal, stallMs = STALL_MS } = request;
  const stalled = new AbortController();
  let timer = setTimeout(() => stalled.abort(), stallMs);
  let response: Response | undefined;
  try {
    const { url, headers } = withoutCredentials(request);
    if (request.range !== undefined) headers.set("range", `bytes=${request.range().join("-")}`);
    response = await fetch(url, {
      headers,
      signal: signal === undefined ? stalled.signal : AbortSignal.any([signal, stalled.signal]),
    });
    const { status, body } = response;
    if (status >= 500) {
      throw new NetworkFault(
        "its answer",
        `${status}`,
        request.range === undefined ? "200" : "206",
      );
    }
    return await use({
      status,
      headers: response.headers,
      receive: async (take) => {
        for await (const piece of body ?? []) {
          clearTimeout(timer);
          timer = setTimeout(() => stalled.abort(), stallMs);
          take(piece);
        }
      },
    });
  } catch (error) {
    if (error instanceof FormatError || error instanceof NetworkFault) throw error;
    if (signal?.aborted) throw FormatError.of(action, "the file", "closed", "open");
    if (stalled.signal.aborted) {
      const must = `to bring bytes at least every ${stallMs / 1000} s`;
      throw new NetworkFault("its server", "silent", must);
    }
    throw asFault(error, { action, url: request.url, answered: response !== undefined });
  } finally {
    clearTimeout(timer);
    if (response?.body && !response.bodyUsed) await response.body.cancel().catch(() => {});
  }
}

/** The system's own messages show the whole URL, and so are not passed on. */
function asFault(
  error: unknown,
  context: { action: string; url: string; answered: boolean },
): FormatError | NetworkFault {
  const { action, url, answered } = context;
  if (error instanceof Error && /^(NotCapable|PermissionDenied)$/.test(error.name)) {
    // The host may be one that the server redirects to.
    const host = /net access to "([^"]+)"/.exec(error.message)?.[1] ?? new URL(url).host;
    return FormatError.of(
      action,
      `net access to ${host}`,
      "not permitted",
      `in --allow-net of the task in deno.json (add ${host})`,
    );
  }
  return answered
    ? new NetworkFault("its answer", "broken off", "complete")
    : new NetworkFault("its server", "unreachable", "reachable");
}

/** Fetch refuses URLs with a user and a password in them, or would show them. */
function withoutCredentials(request: WebRequest): { url: URL; headers: Headers } {
  const url = webUrl(request.url, request.action);
  const headers = new Headers();
  if (url.username !== "" || url.password !== "") {
    const pair = `${decodePart(url.username)}:${decodePart(url.password)}`;
    const bytes = new TextEncoder().encode(pair);
    headers.set("authorization", `Basic ${btoa(String.fromCharCode(...bytes))}`);
    url.username = "";
    url.password = "";
  }
  return { url, headers };
}

/** Whether a model's place is on the web rather than on disk. */
export function isWebUrl(place: string): boolean {
  return /^https?:\/\//i.test(place);
}

/** The parsed URL; throws FormatError where it is none. */
export function webUrl(text: string, action: string): URL {
  const url = isWebUrl(text) ? URL.parse(text) : null;
  if (url !== null) return url;
  throw FormatError.of(action, "its URL", "not valid", "such as https://host/model.gguf");
}

/** The last part of a URL's path, or its host: what may be shown of it. */
export function webName(url: URL): string {
  const part = url.pathname.replace(/\/+$/, "").split("/").at(-1) ?? "";
  return decodePart(part) || url.host;
}

function decodePart(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Waits; ends early where `signal` is aborted. */
function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    signal?.addEventListener("abort", end);
  });
}
