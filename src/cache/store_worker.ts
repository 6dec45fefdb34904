/**
 * Starts the worker in which a store runs, and another one when it ends. It belongs to the main thread:
 * an engine's worker may end and another one start, and each gets a port of its own.
 */

import { BackOff, type BackOffLimits } from "./back_off.ts";
import { LINK_LIMITS } from "./link.ts";
import type { OpenStoreOptions } from "./open_store.ts";

/** To the worker. */
export type WorkerCommand =
  | { readonly type: "open"; readonly options: OpenStoreOptions }
  | { readonly type: "connect"; readonly port: MessagePort }
  | { readonly type: "close" };

/** From the worker. */
export type WorkerReport =
  | { readonly type: "warning"; readonly message: string }
  | { readonly type: "closed" };

export interface StoreWorker {
  /**
   * A new port, to be transferred to who calls `storeOverPort` with it. `onLost` is called once, when the
   * worker behind it has ended: then `connect` gives a port to the worker that takes its place.
   */
  connect(onLost?: () => void): MessagePort;
  /** Writes what waits and ends the worker. */
  close(): Promise<void>;
}

export interface StoreWorkerHooks {
  /** Hears lines for the operator, one a minute at most. */
  readonly onWarning?: (message: string) => void;
  /** Starts a worker that runs `worker.ts`. */
  readonly start?: () => Worker;
  /** How long to wait before a worker that ended is replaced; LINK_LIMITS where nothing is said. */
  readonly limits?: BackOffLimits;
}

/** Milliseconds that writing what waits may take at the end. */
const CLOSE_MS = 5000;
/** Milliseconds after which a worker that ends has worked. */
const PROVEN_MS = 60_000;
/** Milliseconds between two warnings: a minute as the store counts it, less their way through the port. */
const WARNING_MS = 59_000;

/** Opens a store in a worker of its own. */
export function openStoreWorker(
  options: OpenStoreOptions,
  hooks: StoreWorkerHooks = {},
): StoreWorker {
  return new LastingStoreWorker(options, hooks);
}

function startWorker(): Worker {
  return new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "store" });
}

class LastingStoreWorker implements StoreWorker {
  readonly #options: OpenStoreOptions;
  readonly #hooks: StoreWorkerHooks;
  readonly #backOff: BackOff;
  /** Null from a worker's end until the next one is started. */
  #worker: Worker | null = null;
  #startedAt = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Ports for the next worker. */
  #waiting: MessagePort[] = [];
  /** Called when the present worker ends: of those that have a port to it, or to the next one. */
  #users: (() => void)[] = [];
  #warnedAt = -Infinity;
  #closing: PromiseWithResolvers<void> | null = null;

  constructor(options: OpenStoreOptions, hooks: StoreWorkerHooks) {
    this.#options = options;
    this.#hooks = hooks;
    this.#backOff = new BackOff(hooks.limits ?? LINK_LIMITS);
    this.#start();
  }

  connect(onLost: () => void = () => {}): MessagePort {
    const { port1, port2 } = new MessageChannel();
    this.#users.push(onLost);
    if (this.#worker === null) this.#waiting.push(port1);
    else this.#send({ type: "connect", port: port1 }, [port1]);
    return port2;
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer);
    this.#closing = Promise.withResolvers<void>();
    if (this.#worker !== null) {
      this.#send({ type: "close" });
      const timer = setTimeout(this.#closing.resolve, CLOSE_MS);
      await this.#closing.promise;
      clearTimeout(timer);
      this.#worker?.terminate();
    }
    for (const port of this.#waiting) port.close();
  }

  #start(): void {
    const worker = (this.#hooks.start ?? startWorker)();
    this.#worker = worker;
    this.#startedAt = performance.now();
    worker.onmessage = ({ data }: MessageEvent<WorkerReport>) => {
      if (data.type === "warning") this.#warn(data.message);
      else this.#closing?.resolve();
    };
    worker.onerror = (event) => {
      event.preventDefault();
      if (this.#worker === worker) this.#replace(event.message);
    };
    this.#send({ type: "open", options: this.#options });
    for (const port of this.#waiting.splice(0)) this.#send({ type: "connect", port }, [port]);
  }

  #replace(reason: string): void {
    this.#worker?.terminate();
    this.#worker = null;
    this.#warn(
      `the prefix cache's worker ended: ${reason}; going on without it until the next one`,
    );
    if (this.#closing !== null) return this.#closing.resolve();
    if (performance.now() - this.#startedAt >= PROVEN_MS) this.#backOff.reset();
    this.#timer = setTimeout(() => this.#start(), this.#backOff.next());
    for (const onLost of this.#users.splice(0)) onLost();
  }

  #send(command: WorkerCommand, transfer: Transferable[] = []): void {
    this.#worker?.postMessage(command, transfer);
  }

  #warn(message: string): void {
    const now = performance.now();
    if (now - this.#warnedAt < WARNING_MS) return;
    this.#warnedAt = now;
    this.#hooks.onWarning?.(message);
  }
}
