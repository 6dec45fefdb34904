/** The script of a store's worker. */

import { openStore } from "./open_store.ts";
import { serveStore } from "./serve_store.ts";
import type { StoreCommand, StorePort, StoreReport } from "./store_wire.ts";
import type { UnitsInKv } from "./units_in_kv.ts";
import type { WorkerCommand, WorkerReport } from "./store_worker.ts";

const main = globalThis as unknown as {
  postMessage(report: WorkerReport): void;
  onmessage: (event: MessageEvent<WorkerCommand>) => void;
  addEventListener(type: string, listener: (event: Event) => void): void;
};
const stops: (() => void)[] = [];
let store: UnitsInKv | undefined;

main.onmessage = async ({ data }) => {
  if (data.type === "open") {
    const onWarning = (message: string) => main.postMessage({ type: "warning", message });
    store = openStore(data.options, { onWarning });
  } else if (data.type === "connect") {
    stops.push(serveStore(data.port as unknown as StorePort<StoreReport, StoreCommand>, store!));
  } else {
    await store!.close();
    for (const stop of stops) stop();
    main.postMessage({ type: "closed" });
  }
};

// What a database's own machinery throws outside any call must not end the worker. One that has not come
// so far as to have a store ends, and another one is started.
for (const type of ["error", "unhandledrejection"]) {
  main.addEventListener(type, (event) => {
    if (store === undefined) return;
    event.preventDefault();
    const reason = (event as PromiseRejectionEvent).reason ?? (event as ErrorEvent).message;
    main.postMessage({ type: "warning", message: `the prefix cache met an error: ${reason}` });
  });
}
