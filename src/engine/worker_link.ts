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
  /**
   * A port for one more engine (`storeOverPort`). `onLost` is called once, when what is behind the port has
   * ended; another port can be had then.
   */
  connect(onLost: () => void): MessagePort;
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
  readonly #ports: StorePorts;

  /** Starts a worker and opens the model in it; rejects with the error that opening met. */
  static async open(options: WorkerLinkOptions): Promise<WorkerLink> {
    const worker = options.start();
    const ports = new StorePorts(worker, options.store);
    try {
      const info = await openEngine(worker, { ...options, port: ports.next() });
      return new WorkerLink({ worker, ports, info });
    } catch (error) {
      ports.close();
      worker.terminate();
      throw error;
    }
  }

  private constructor(
    { worker, ports, info }: { worker: EngineWorker; ports: StorePorts; info: EngineInfo },
  ) {
    this.#worker = worker;
    this.#ports = ports;
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
    this.#ports.close();
    this.#worker.terminate();
  }
}

/** A worker's port to the store, and another one whenever what is behind it has ended. */
class StorePorts {
  readonly #worker: EngineWorker;
  readonly #store: StoreConnection | undefined;
  #closed = false;

  constructor(worker: EngineWorker, store: StoreConnection | undefined) {
    this.#worker = worker;
    this.#store = store;
  }

  /** Undefined where there is no store. */
  next(): MessagePort | undefined {
    return this.#store?.connect(() => this.#replace());
  }

  /** The worker ends, and wants no more ports. */
  close(): void {
    this.#closed = true;
  }

  #replace(): void {
    const port = this.#closed ? undefined : this.next();
    if (port !== undefined) this.#worker.postMessage({ type: "store", port }, [port]);
  }
}

/** Resolves once the worker's engine is open. */
function openEngine(
  worker: EngineWorker,
  { engine, port, onProgress }: WorkerLinkOptions & { readonly port: MessagePort | undefined },
): Promise<EngineInfo> {
  return new Promise((resolve, reject) => {
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
    worker.postMessage(
      { type: "open", options: engine, ...(port && { store: port }) },
      port && [port],
    );
  });
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
