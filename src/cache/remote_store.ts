/**
 * The engine's side of a store that runs in a worker of its own. Bytes are handed over in both
 * directions, never copied. A worker that says nothing is like a database that is gone.
 */

import type { LoadQuery, StoredUnit, UnitStore } from "./store.ts";
import type { StoreCommand, StorePort, StoreReport } from "./store_wire.ts";
import type { StoreState } from "./types.ts";

export interface RemoteStoreOptions {
  /** Bytes that may be on their way to the worker; 64 MiB where nothing is said. */
  readonly queueBytes?: number;
  /** Milliseconds that the worker may say nothing while a load is under way; 2000 where nothing is said. */
  readonly silenceMs?: number;
}

const QUEUE_BYTES = 64 * 1024 * 1024;
const SILENCE_MS = 2000;
/** A thread that was busy for long gets its messages first, and the time-out after this many ms. */
const GRACE_MS = 50;

const NOTHING: StoreState = {
  state: "opening",
  entries: 0,
  bytes: 0,
  pagesRead: 0,
  pagesWritten: 0,
  pagesDropped: 0,
  pagesEvicted: 0,
  pagesRefused: 0,
  errors: 0,
};

/** The store that `openStoreWorker` serves at the other end of `port`. */
export function storeOverPort(port: MessagePort, options: RemoteStoreOptions = {}) {
  return new RemoteUnitStore(port, options);
}

export class RemoteUnitStore implements UnitStore {
  #port: StorePort<StoreCommand, StoreReport>;
  readonly #queueBytes: number;
  readonly #silenceMs: number;
  #nextId = 1;
  readonly #loads = new Map<number, (units: readonly StoredUnit[]) => void>();
  readonly #flushes = new Map<number, () => void>();
  #state = NOTHING;
  /** What workers counted that have ended. */
  #earlier = NOTHING;
  #bytesUnderWay = 0;
  #unitsUnderWay = 0;
  /** Units that the worker never got. */
  #dropped = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Nothing has come for too long, and a sign of life was asked for. */
  #isSilent = false;
  #closed = false;

  constructor(
    port: StorePort<StoreCommand, StoreReport>,
    { queueBytes = QUEUE_BYTES, silenceMs = SILENCE_MS }: RemoteStoreOptions = {},
  ) {
    this.#port = port;
    this.#queueBytes = queueBytes;
    this.#silenceMs = silenceMs;
    port.onmessage = ({ data }) => this.#take(data);
  }

  /**
   * Takes another port, since the worker behind this one has ended. Until the other end speaks, nothing
   * is found and nothing taken.
   */
  reconnect(port: StorePort<StoreCommand, StoreReport>): void {
    this.#port.onmessage = null;
    this.#port.close();
    if (this.#closed) return port.close();
    this.#stopWaiting();
    this.#isSilent = true;
    this.#earlier = this.#counts();
    this.#state = NOTHING;
    this.#dropped += this.#unitsUnderWay;
    this.#bytesUnderWay = 0;
    this.#unitsUnderWay = 0;
    this.#port = port;
    port.onmessage = ({ data }) => this.#take(data);
  }

  load(query: LoadQuery): Promise<StoredUnit[]> {
    const { signal, parent, tokens, unitBytes } = query;
    if (this.#closed || this.#isSilent || signal?.aborted) return Promise.resolve([]);
    const id = this.#nextId++;
    return new Promise((resolve) => {
      const end = (units: readonly StoredUnit[]) => {
        signal?.removeEventListener("abort", abort);
        this.#loads.delete(id);
        resolve([...units]);
      };
      const abort = () => {
        this.#send({ type: "abort", id });
        end([]);
      };
      signal?.addEventListener("abort", abort);
      this.#loads.set(id, end);
      this.#send({ type: "load", id, query: { parent, tokens, unitBytes } });
      this.#watch();
    });
  }

  save(unit: StoredUnit): void {
    const { length } = unit.bytes;
    const isTooMuch = this.#bytesUnderWay + length > this.#queueBytes;
    if (this.#closed || this.#isSilent || isTooMuch) {
      this.#dropped++;
      return;
    }
    this.#bytesUnderWay += length;
    this.#unitsUnderWay++;
    this.#send({ type: "save", unit }, [unit.bytes.buffer]);
  }

  state(): StoreState {
    const counts = this.#counts();
    return {
      ...counts,
      state: this.#isSilent || this.#closed ? "unavailable" : counts.state,
      pagesDropped: counts.pagesDropped + this.#dropped,
    };
  }

  flush(): Promise<void> {
    if (this.#closed || this.#isSilent) return Promise.resolve();
    const id = this.#nextId++;
    return new Promise((resolve) => {
      this.#flushes.set(id, resolve);
      this.#send({ type: "flush", id });
      this.#watch();
    });
  }

  /** Ends this end of the port; whoever started the worker closes the store. */
  close(): Promise<void> {
    this.#closed = true;
    this.#stopWaiting();
    this.#port.close();
    return Promise.resolve();
  }

  #take(report: StoreReport): void {
    this.#isSilent = false;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (report.type === "state") this.#state = report.state;
    else if (report.type === "taken") {
      this.#bytesUnderWay -= report.bytes;
      this.#unitsUnderWay--;
    } else if (report.type === "loaded") this.#loads.get(report.id)?.(report.units);
    else {
      this.#flushes.get(report.id)?.();
      this.#flushes.delete(report.id);
    }
    this.#watch();
  }

  #send(command: StoreCommand, transfer: Transferable[] = []): void {
    this.#port.postMessage(command, transfer);
  }

  /** Waits for a sign of life as long as somebody waits for the worker. */
  #watch(): void {
    if (this.#timer !== undefined || this.#loads.size + this.#flushes.size === 0) return;
    this.#timer = setTimeout(() => {
      this.#timer = setTimeout(() => {
        this.#timer = undefined;
        this.#isSilent = true;
        for (const id of this.#loads.keys()) this.#send({ type: "abort", id });
        this.#giveUp();
        this.#send({ type: "ping" });
      }, GRACE_MS);
    }, this.#silenceMs);
  }

  #stopWaiting(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#giveUp();
  }

  /** The counts of all workers so far, and the present one's state. */
  #counts(): StoreState {
    const [earlier, present] = [this.#earlier, this.#state];
    return {
      ...present,
      pagesRead: earlier.pagesRead + present.pagesRead,
      pagesWritten: earlier.pagesWritten + present.pagesWritten,
      pagesDropped: earlier.pagesDropped + present.pagesDropped,
      pagesEvicted: earlier.pagesEvicted + present.pagesEvicted,
      pagesRefused: earlier.pagesRefused + present.pagesRefused,
      errors: earlier.errors + present.errors,
    };
  }

  #giveUp(): void {
    for (const end of [...this.#loads.values()]) end([]);
    for (const end of this.#flushes.values()) end();
    this.#flushes.clear();
  }
}
