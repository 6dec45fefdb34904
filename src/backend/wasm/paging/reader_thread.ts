/** A thread that reads experts ahead of need, and what others wait for from URLs. */

import { instantiate, type SharedModule } from "../kernels.ts";
import { LoadTable, STATE, type Urgency } from "./load_table.ts";
import { failureText, FileReader, type ReaderBank, UrlReader } from "./reading.ts";

export interface ReaderStart {
  readonly shared: SharedModule;
  readonly table: SharedArrayBuffer;
  /** The checkpoint is at a URL. */
  readonly remote: boolean;
}

/** Range requests under way at a time. */
const MAX_REQUESTS = 16;

const scope = self as unknown as {
  onmessage: ((event: MessageEvent<ReaderStart>) => void) | null;
  postMessage(message: "up"): void;
  close(): void;
};

scope.onmessage = async ({ data: { shared, table: memory, remote } }) => {
  const banks: ReaderBank[] = [];
  for (const [bank, memory] of shared.memories.entries()) {
    banks.push({ kernels: await instantiate(shared, bank), memory });
  }
  const table = new LoadTable({ memory });
  if (remote) await serveUrls(table, banks);
  else serveFiles(table, banks);
  scope.close();
};

// Whoever waits for experts may block from now on: nothing here needs its thread's event loop.
scope.postMessage("up");

/** The next slot that is wanted and not yet taken, the urgent ones first. */
function claimNext(table: LoadTable, seen: Record<Urgency, number>): number | undefined {
  for (const urgency of ["now", "ahead"] as const) {
    let slot = table.next(seen, urgency);
    while (slot !== undefined && !table.claim(slot)) slot = table.next(seen, urgency);
    if (slot !== undefined) return slot;
  }
  return undefined;
}

function serveFiles(table: LoadTable, banks: readonly ReaderBank[]): void {
  const reader = new FileReader(table);
  const seen = { now: 0, ahead: 0 };
  while (!table.stopped) {
    const signal = table.signal;
    const slot = claimNext(table, seen);
    if (slot === undefined) {
      table.waitForSignal(signal);
      continue;
    }
    const load = table.load(slot);
    try {
      reader.read(load, banks[load.bank]);
      table.setState(slot, STATE.done);
    } catch (error) {
      table.fail(slot, failureText(load, { table, error }));
    }
  }
  reader.close();
}

async function serveUrls(table: LoadTable, banks: readonly ReaderBank[]): Promise<void> {
  const reader = new UrlReader(table);
  const seen = { now: 0, ahead: 0 };
  const running = new Set<Promise<void>>();
  const run = async (slot: number) => {
    const load = table.load(slot);
    try {
      await reader.read(load, banks[load.bank]);
      table.setState(slot, STATE.done);
    } catch (error) {
      table.fail(slot, failureText(load, { table, error }));
    }
  };
  while (!table.stopped) {
    const signal = table.signal;
    const slot = running.size < MAX_REQUESTS ? claimNext(table, seen) : undefined;
    if (slot !== undefined) {
      const task = run(slot);
      running.add(task);
      void task.finally(() => running.delete(task));
      continue;
    }
    await Promise.race([table.signalled(signal), ...running]);
  }
}
