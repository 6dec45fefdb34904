/**
 * Starts the worker in which a store runs. It belongs to the main thread: an engine's worker may end and
 * another one start, and each gets a port of its own.
 */

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
  /** A new port, to be transferred to who calls `storeOverPort` with it. */
  connect(): MessagePort;
  /** Writes what waits and ends the worker. */
  close(): Promise<void>;
}

/** Milliseconds that writing what waits may take at the end. */
const CLOSE_MS = 5000;

/** Opens a store in a worker of its own; `onWarning` gets lines for the operator. */
export function openStoreWorker(
  options: OpenStoreOptions,
  { onWarning = () => {} }: { onWarning?: (message: string) => void } = {},
): StoreWorker {
  const worker = new Worker(new URL("./worker.ts", import.meta.url), {
    type: "module",
    name: "store",
  });
  const ended = Promise.withResolvers<void>();
  const send = (command: WorkerCommand, transfer: Transferable[] = []) =>
    worker.postMessage(command, transfer);
  worker.onmessage = ({ data }: MessageEvent<WorkerReport>) => {
    if (data.type === "warning") onWarning(data.message);
    else ended.resolve();
  };
  worker.onerror = (event) => {
    event.preventDefault();
    onWarning(`the prefix cache's worker ended: ${event.message}; going on without it`);
    ended.resolve();
  };
  send({ type: "open", options });
  return {
    connect() {
      const { port1, port2 } = new MessageChannel();
      send({ type: "connect", port: port1 }, [port1]);
      return port2;
    },
    async close() {
      send({ type: "close" });
      const timer = setTimeout(ended.resolve, CLOSE_MS);
      await ended.promise;
      clearTimeout(timer);
      worker.terminate();
    },
  };
}
