/**
 * A worker with an engine in it, from its start to its end: opening the model, passing commands and
 * reports, and hearing when it ends. Which requests it has is the `WorkerEngine`'s to know.
 */

import type { EngineInfo, EngineOptions, LoadProgress } from "./types.ts";
import { type Command, decodeError, type MessageEndpoint, type Report } from "./wire.ts";

/** The part of a `Worker` that the engine uses. */
export interface EngineWorker extends MessageEndpoint<Command, Report> {
  onerror: ((event: ErrorEvent) => void) | null;
  onmessageerror: ((event: MessageEvent) => void) | null;
  terminate(): void;
}

/** A store that runs elsewhere. */
export interface StoreConnection {
  /** A port for one more engine (`storeOverPort`). */
  connect(): MessagePort;
  /** Writes what is waiting and ends the store. */
  close(): Promise<void>;
}

export interface WorkerLinkOptions {
  /** Starts a worker that runs `serveEngine`. */
  readonly start: () => EngineWorker;
  readonly engine: EngineOptions;
  /** The prefix cache's store, which outlives the engine's worker; nothing where absent. */
  readonly store?: StoreConnection;
  readonly onProgress?: LoadProgress;
}

export interface LinkListener {
  /** Every report from now on, but that the backend is lost. */
  readonly onReport: (report: Report) => void;
  /** The worker has thrown outside any handler, has sent what cannot be read, or has lost its backend. */
  readonly onEnd: (reason: string) => void;
}

export class WorkerLink {
  readonly info: EngineInfo;
  readonly #worker: EngineWorker;

  /** Starts a worker and opens the model in it; rejects with the error that opening met. */
  static async open({ start, engine, store, onProgress }: WorkerLinkOptions): Promise<WorkerLink> {
    const worker = start();
    try {
      const info = await new Promise<EngineInfo>((resolve, reject) => {
        worker.onmessage = ({ data }) => {
          if (data.type === "progress") {
            const { loadedBytes, totalBytes } = data;
            onProgress?.({ loadedBytes, totalBytes });
          } else if (data.type === "ready") resolve(data.info);
          else if (data.type === "failed") reject(decodeError(data.error));
        };
        watch(
          worker,
          (reason) => reject(new Error(`cannot open the engine: its worker ended: ${reason}`)),
        );
        const port = store?.connect();
        worker.postMessage(
          { type: "open", options: engine, ...(port && { store: port }) },
          port && [port],
        );
      });
      return new WorkerLink(worker, info);
    } catch (error) {
      worker.terminate();
      throw error;
    }
  }

  private constructor(worker: EngineWorker, info: EngineInfo) {
    this.#worker = worker;
    this.info = info;
  }

  listen({ onReport, onEnd }: LinkListener): void {
    this.#worker.onmessage = ({ data }) => {
      if (data.type === "lost") onEnd(data.reason);
      else onReport(data);
    };
    watch(this.#worker, onEnd);
  }

  /** Throws where the command cannot be cloned. */
  send(command: Command): void {
    this.#worker.postMessage(command);
  }

  terminate(): void {
    this.#worker.terminate();
  }
}

/** Calls back when the worker throws outside any handler, or sends what cannot be read. */
function watch(worker: EngineWorker, onEnd: (reason: string) => void): void {
  worker.onerror = (event) => {
    // Otherwise the error would end this thread as well.
    event.preventDefault();
    onEnd(event.message);
  };
  worker.onmessageerror = () => onEnd("it sent a message that cannot be read");
}
