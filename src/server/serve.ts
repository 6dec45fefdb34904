/**
 * Serves a fetch handler through node:http, which (unlike Deno.serve) closes half-sent requests.
 * Also owns draining: running answers finish while newcomers are still told that there is no more,
 * then nobody is listened to, and stragglers are told to stop.
 */

import { createServer } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { OptionError } from "../errors.ts";
import { exchange, type FetchHandler } from "./bridge.ts";
import { DEFAULT_SERVER_LIMITS, type ServerLimits } from "./limits.ts";

export interface ServeOptions {
  readonly fetch: FetchHandler;
  readonly hostname: string;
  /** 0 takes a free one. */
  readonly port: number;
  readonly limits?: Partial<ServerLimits>;
  readonly onError?: (error: unknown) => void;
}

export interface DrainOptions {
  /** Milliseconds that running answers get. */
  readonly deadlineMs: number;
  /** Called once the deadline has passed; should make the remaining answers end at once. */
  readonly onDeadline?: () => void;
  /** Milliseconds between `onDeadline` and the closing of what is still open. */
  readonly graceMs?: number;
}

export interface Server {
  readonly hostname: string;
  readonly port: number;
  readonly url: string;
  /** Requests being answered. */
  active(): number;
  /**
   * Lets running answers finish, and resolves when every connection is closed: true where none was
   * cut. Requests that come meanwhile still reach the handler, whose part it is to refuse them; once no
   * earlier one is left, connections are refused.
   */
  drain(options: DrainOptions): Promise<boolean>;
}

/** How often idle connections are looked for while draining, in milliseconds. */
const DRAIN_POLL_MS = 20;

/** What a client gets whose bytes are no HTTP request or come too slowly. */
function rawRefusal(code: string | undefined): string {
  const [status, message] = code === "ERR_HTTP_REQUEST_TIMEOUT"
    ? ["408 Request Timeout", "the request took too long to arrive"]
    : code === "HPE_HEADER_OVERFLOW"
    ? ["431 Request Header Fields Too Large", "the request headers are too large"]
    : ["400 Bad Request", "the request is not valid HTTP"];
  const body = JSON.stringify({
    error: { message, type: "invalid_request_error", param: null, code: null },
  });
  return `HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-type: application/json\r\n` +
    `content-length: ${body.length}\r\n\r\n${body}`;
}

/** Brackets an IPv6 address, as URLs want it. */
function urlHost(hostname: string): string {
  return hostname.includes(":") ? `[${hostname}]` : hostname;
}

/** Starts listening. Rejects with OptionError where the address cannot be had. */
export async function serve(options: ServeOptions): Promise<Server> {
  const limits = { ...DEFAULT_SERVER_LIMITS, ...options.limits };
  const onError = options.onError ?? (() => {});
  let draining = false;
  let running = 0;
  /** Of these, requests that came before the draining. */
  let awaited = 0;
  /**
   * Open connections and how many requests each has in progress, browsers' spare ones included; those
   * that have been used least recently come first.
   */
  const connections = new Map<Socket, number>();
  const count = (socket: Socket, change: number) => {
    const requests = connections.get(socket);
    if (requests === undefined) return;
    connections.delete(socket);
    connections.set(socket, requests + change);
  };
  const makeRoom = (newcomer: Socket) => {
    for (const [socket, requests] of connections) {
      if (requests === 0) return socket.destroy();
    }
    newcomer.destroy();
  };
  const server = createServer({
    headersTimeout: limits.headerMs,
    requestTimeout: limits.requestMs,
    keepAliveTimeout: limits.idleMs,
    connectionsCheckingInterval: limits.checkMs,
    // Missing Host headers are answered by the bridge, in the API's error shape.
    requireHostHeader: false,
  }, (incoming, outgoing) => {
    running++;
    const early = !draining;
    if (early) awaited++;
    const { socket } = incoming;
    count(socket, 1);
    outgoing.on("close", () => count(socket, -1));
    exchange({
      incoming,
      outgoing,
      fetch: options.fetch,
      limits,
      keepAlive: () => !draining,
      onError,
    }).finally(() => {
      running--;
      if (early) awaited--;
    });
  });
  server.on("connection", (socket: Socket) => {
    if (connections.size >= limits.connections) makeRoom(socket);
    if (socket.destroyed) return;
    connections.set(socket, 0);
    socket.on("close", () => connections.delete(socket));
  });
  server.on("clientError", (error: Error & { code?: string }, socket: Socket) => {
    if (error.code === "ECONNRESET" || !socket.writable) socket.destroy();
    else socket.end(rawRefusal(error.code));
  });
  await new Promise<void>((resolve, reject) => {
    const onListenError = (error: Error) => {
      reject(
        new OptionError(
          `cannot listen on ${urlHost(options.hostname)}:${options.port}: ${error.message}`,
        ),
      );
    };
    server.once("error", onListenError);
    server.listen(options.port, options.hostname, () => {
      server.off("error", onListenError);
      server.on("error", onError);
      resolve();
    });
  });
  const { port } = server.address() as AddressInfo;

  async function drain({ deadlineMs, onDeadline, graceMs = 1_000 }: DrainOptions) {
    draining = true;
    const earlier: ReadonlySet<Socket> = new Set(connections.keys());
    let closed = false;
    let listening = true;
    const started = performance.now();
    let told = false;
    while (!closed) {
      if (listening && (awaited === 0 || told)) {
        listening = false;
        server.close(() => closed = true);
      }
      // Not closeIdleConnections, which spares connections that never carried a request. Newcomers get
      // their refusal first, as long as there is somebody to listen.
      for (const [socket, requests] of connections) {
        if (requests === 0 && (earlier.has(socket) || !listening)) socket.destroy();
      }
      const waited = performance.now() - started;
      if (!told && waited >= deadlineMs) {
        told = true;
        onDeadline?.();
      }
      if (waited >= deadlineMs + graceMs) {
        server.closeAllConnections();
        return false;
      }
      await new Promise((resolve) => setTimeout(resolve, DRAIN_POLL_MS));
    }
    return !told;
  }

  return {
    hostname: options.hostname,
    port,
    url: `http://${urlHost(options.hostname)}:${port}`,
    active: () => running,
    drain,
  };
}
