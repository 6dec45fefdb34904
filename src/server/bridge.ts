/**
 * One HTTP exchange between node:http and a fetch handler: request in, response out, with
 * backpressure both ways. The request's signal aborts when the client leaves before the answer is
 * complete. What is answered is none of this file's business, except for what no Request can hold.
 */

import type { IncomingMessage, ServerResponse } from "node:http";
import type { ServerLimits } from "./limits.ts";

export type FetchHandler = (request: Request) => Response | Promise<Response>;

/** Methods that the Fetch standard refuses to put into a Request. */
const FORBIDDEN_METHODS: ReadonlySet<string> = new Set(["CONNECT", "TRACE", "TRACK"]);

/** An answer to what cannot be passed on, in the API's error shape. */
function refusal(status: number, message: string): Response {
  const error = { message, type: "invalid_request_error", param: null, code: null };
  return Response.json({ error }, { status });
}

/** The request body as a stream that reads from the socket only when it is read itself. */
function bodyStream(incoming: IncomingMessage): ReadableStream<Uint8Array> {
  let closed = false;
  return new ReadableStream<Uint8Array>({
    start(controller) {
      incoming.pause();
      incoming.on("data", (chunk: Uint8Array) => {
        if (closed) return;
        controller.enqueue(new Uint8Array(chunk));
        if ((controller.desiredSize ?? 0) <= 0) incoming.pause();
      });
      incoming.on("end", () => {
        if (!closed) controller.close();
        closed = true;
      });
      incoming.on("error", () => {
        if (!closed) controller.error(new Error("the request ended before its body was complete"));
        closed = true;
      });
    },
    pull() {
      incoming.resume();
    },
    cancel() {
      closed = true;
      incoming.resume();
    },
  });
}

/** Builds the Request, or the Response that says why there is none. */
function toRequest(incoming: IncomingMessage, signal: AbortSignal): Request | Response {
  const method = incoming.method ?? "GET";
  const target = incoming.url ?? "/";
  const headers = new Headers();
  let hosts = 0;
  for (let i = 0; i + 1 < incoming.rawHeaders.length; i += 2) {
    const name = incoming.rawHeaders[i];
    if (name.toLowerCase() === "host") hosts++;
    try {
      headers.append(name, incoming.rawHeaders[i + 1]);
    } catch {
      return refusal(400, "a request header holds characters that are not allowed");
    }
  }
  const host = headers.get("host");
  if (hosts !== 1 || !host) return refusal(400, "the request must have exactly one Host header");
  if (FORBIDDEN_METHODS.has(method)) return refusal(405, `method ${method} is not supported`);
  if (!target.startsWith("/")) return refusal(400, "the request target must begin with /");
  const url = URL.parse(`http://${host}${target}`);
  if (url === null || url.username !== "" || url.password !== "") {
    return refusal(400, "the Host header must be a host name, with a port or without");
  }
  const bodiless = method === "GET" || method === "HEAD";
  if (bodiless) incoming.resume();
  return new Request(url, {
    method,
    headers,
    signal,
    body: bodiless ? null : bodyStream(incoming),
  });
}

/** Resolves true once the socket takes more bytes, false where it closes or stalls. */
function drained(outgoing: ServerResponse, stallMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const settle = (ready: boolean) => {
      clearTimeout(timer);
      outgoing.off("drain", onDrain);
      outgoing.off("close", onClose);
      resolve(ready);
    };
    const onDrain = () => settle(true);
    const onClose = () => settle(false);
    const timer = setTimeout(() => settle(false), stallMs);
    outgoing.on("drain", onDrain);
    outgoing.on("close", onClose);
  });
}

/** Resolves when the request has arrived whole, its socket is gone, or after `lingerMs`. */
function received(incoming: IncomingMessage, lingerMs: number): Promise<void> {
  if (incoming.complete || incoming.destroyed) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, lingerMs);
    const settle = () => {
      clearTimeout(timer);
      resolve();
    };
    incoming.on("end", settle);
    incoming.on("close", settle);
    // The body's reader would hold the socket back; what still comes is thrown away.
    incoming.removeAllListeners("data");
    incoming.resume();
  });
}

/** Writes the response; false where the client left or stopped reading. */
async function writeBody(
  outgoing: ServerResponse,
  { body, stallMs }: { body: ReadableStream<Uint8Array>; stallMs: number },
): Promise<boolean> {
  const reader = body.getReader();
  const onClose = () => void reader.cancel().catch(() => {});
  outgoing.on("close", onClose);
  try {
    while (true) {
      const { done, value } = await reader.read();
      if (outgoing.destroyed) return false;
      if (done) return true;
      if (!outgoing.write(value) && !await drained(outgoing, stallMs)) {
        await reader.cancel().catch(() => {});
        return false;
      }
    }
  } finally {
    outgoing.off("close", onClose);
  }
}

export interface ExchangeOptions {
  readonly incoming: IncomingMessage;
  readonly outgoing: ServerResponse;
  readonly fetch: FetchHandler;
  readonly limits: ServerLimits;
  /** Whether the connection may serve another request afterwards. */
  readonly keepAlive: () => boolean;
  /** Hears of a handler that threw; its client gets a 500 or a broken connection. */
  readonly onError: (error: unknown) => void;
}

/** Answers one request. Never rejects. */
export async function exchange(options: ExchangeOptions): Promise<void> {
  const { incoming, outgoing, limits } = options;
  const left = new AbortController();
  outgoing.on("close", () => {
    if (!outgoing.writableFinished) left.abort(new Error("the client closed the connection"));
  });
  outgoing.on("error", () => {});
  incoming.on("error", () => {});
  try {
    const request = toRequest(incoming, left.signal);
    let response: Response;
    try {
      response = request instanceof Response ? request : await options.fetch(request);
    } catch (error) {
      if (!left.signal.aborted) options.onError(error);
      response = Response.json({
        error: { message: "internal error", type: "server_error", param: null, code: null },
      }, { status: 500 });
    }
    if (outgoing.destroyed) {
      await response.body?.cancel().catch(() => {});
      return;
    }
    const partial = !incoming.complete;
    if (partial || !options.keepAlive()) outgoing.setHeader("connection", "close");
    outgoing.writeHead(response.status, [...response.headers].flat());
    if (response.body !== null && incoming.method === "HEAD") await response.body.cancel();
    else if (response.body !== null) {
      outgoing.flushHeaders();
      const body = response.body as ReadableStream<Uint8Array>;
      if (!await writeBody(outgoing, { body, stallMs: limits.writeStallMs })) {
        outgoing.destroy();
        return;
      }
    }
    // A socket closed with unread bytes in it is reset, and the client may lose the answer.
    if (partial) await received(incoming, limits.lingerMs);
    outgoing.end();
  } catch (error) {
    if (!left.signal.aborted) options.onError(error);
    outgoing.destroy();
  }
}
