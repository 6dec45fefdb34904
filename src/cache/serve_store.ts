/** A store for those at the other ends of ports. */

import type { StoredUnit, UnitStore } from "./store.ts";
import type { StoreCommand, StorePort, StoreReport } from "./store_wire.ts";

/** Milliseconds between two reports of the state: signs of life, and counts for who shows them. */
const STATE_MS = 250;

/** Answers what comes in at `port`. Returns a function that stops it; the store stays open. */
export function serveStore(
  port: StorePort<StoreReport, StoreCommand>,
  store: UnitStore,
): () => void {
  const loads = new Map<number, AbortController>();
  let told = "";

  async function load(command: StoreCommand & { type: "load" }): Promise<void> {
    const { id, query } = command;
    const abort = new AbortController();
    loads.set(id, abort);
    const units = await store.load({ ...query, signal: abort.signal });
    loads.delete(id);
    port.postMessage({ type: "loaded", id, units }, buffersOf(units));
  }

  async function flush(id: number): Promise<void> {
    await store.flush();
    tell();
    port.postMessage({ type: "flushed", id }, []);
  }

  function tell(): void {
    const state = store.state();
    told = JSON.stringify(state);
    port.postMessage({ type: "state", state }, []);
  }

  port.onmessage = ({ data }) => {
    if (data.type === "load") void load(data);
    else if (data.type === "abort") loads.get(data.id)?.abort();
    else if (data.type === "flush") void flush(data.id);
    else if (data.type === "ping") tell();
    else {
      store.save(data.unit);
      port.postMessage({ type: "taken", bytes: data.unit.bytes.length }, []);
    }
  };
  tell();
  const timer = setInterval(() => {
    if (loads.size > 0 || told !== JSON.stringify(store.state())) tell();
  }, STATE_MS);

  return () => {
    clearInterval(timer);
    for (const abort of loads.values()) abort.abort();
    port.close();
  };
}

function buffersOf(units: readonly StoredUnit[]): ArrayBuffer[] {
  return units.map(({ bytes }) => bytes.buffer);
}
