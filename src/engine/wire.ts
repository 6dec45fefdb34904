/** What a worker with an engine and the thread that started it say to each other. */

import {
  CapacityError,
  DeadlineError,
  ExpertReadError,
  FormatError,
  OptionError,
  RequestError,
  UnsupportedOpError,
} from "../errors.ts";
import type {
  EngineEvent,
  EngineInfo,
  EngineOptions,
  EngineStats,
  GenerateRequest,
  RoutingStats,
} from "./types.ts";

/** To the worker. */
export type Command =
  | {
    readonly type: "open";
    readonly options: EngineOptions;
    /** To the prefix cache's store (`storeOverPort`). */
    readonly store?: MessagePort;
  }
  /** To another store's worker, since the one before has ended. */
  | { readonly type: "store"; readonly port: MessagePort }
  | { readonly type: "generate"; readonly id: number; readonly request: GenerateRequest }
  | { readonly type: "abort"; readonly id: number }
  /** Answered with a report of the same type and id. */
  | { readonly type: "routingStats"; readonly id: number }
  | { readonly type: "close"; readonly graceMs: number | undefined };

/** From the worker. */
export type Report =
  | { readonly type: "progress"; readonly loadedBytes: number; readonly totalBytes: number }
  | { readonly type: "ready"; readonly info: EngineInfo }
  | { readonly type: "failed"; readonly error: WireError }
  /** Everything that happened since the last one; a step's tokens travel together. */
  | { readonly type: "news"; readonly items: readonly NewsItem[]; readonly stats: EngineStats }
  | { readonly type: "routingStats"; readonly id: number; readonly stats: RoutingStats }
  /** The backend is lost; no request will be answered any more. */
  | { readonly type: "lost"; readonly reason: string }
  | { readonly type: "closed" };

/** An event of request `id`, or the error that ended it. */
export type NewsItem =
  | { readonly id: number; readonly event: EngineEvent }
  | { readonly id: number; readonly error: WireError };

/** An error without its class, which structured cloning would lose. */
export interface WireError {
  readonly name: string;
  readonly message: string;
  readonly stack: string | undefined;
  readonly request: {
    readonly param: string | null;
    readonly status: number;
    readonly code: string | null;
  } | null;
}

/** The part of a message port, or of a worker, that the engine uses. */
export interface MessageEndpoint<Sent, Received> {
  postMessage(message: Sent, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<Received>) => void) | null;
}

export function encodeError(error: unknown): WireError {
  if (!(error instanceof Error)) {
    return { name: "Error", message: String(error), stack: undefined, request: null };
  }
  const { name, message, stack } = error;
  if (!(error instanceof RequestError)) return { name, message, stack, request: null };
  const { param, status, code } = error;
  return { name, message, stack, request: { param, status, code } };
}

/** The error again, of its class where it is one of the project's. */
export function decodeError({ name, message, stack, request }: WireError): Error {
  const error = request === null ? rebuild(name, message) : new RequestError(message, request);
  if (stack !== undefined) error.stack = stack;
  return error;
}

function rebuild(name: string, message: string): Error {
  switch (name) {
    case "FormatError":
      return new FormatError(message);
    case "UnsupportedOpError":
      return new UnsupportedOpError(message);
    case "CapacityError":
      return new CapacityError(message);
    case "ExpertReadError":
      return new ExpertReadError(message);
    case "DeadlineError":
      return new DeadlineError(message);
    case "OptionError":
      return new OptionError(message);
    default: {
      const error = new Error(message);
      error.name = name;
      return error;
    }
  }
}
