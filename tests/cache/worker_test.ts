/** A store in a worker of its own, and what its users notice when it is not there. */

import { assert, assertEquals, assertLess } from "@std/assert";
import { RemoteUnitStore, storeOverPort } from "../../src/cache/remote_store.ts";
import { serveStore } from "../../src/cache/serve_store.ts";
import type { StoredUnit, UnitStore } from "../../src/cache/store.ts";
import { openStoreWorker, type StoreWorker } from "../../src/cache/store_worker.ts";
import {
  assertSameUnits,
  chainOf,
  loadedTokens,
  MODEL,
  PAGE,
  query,
  rootOf,
  saveChain,
  tokensOf,
} from "./_units.ts";

const PLACE = { root: rootOf("somebody"), bytesPerToken: 3000 };
const OPTIONS = { model: MODEL, quotaBytes: 1e9, expiryMs: 86_400_000 };

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "sluice-worker-" });
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Opens a port once the worker has come up, which may take seconds on a busy machine. */
async function connect(worker: StoreWorker): Promise<UnitStore> {
  const store = storeOverPort(worker.connect());
  for (let i = 0; i < 500 && store.state().state === "opening"; i++) {
    await new Promise((done) => setTimeout(done, 20));
  }
  return store;
}

Deno.test("a store in a worker keeps units for all its ports, and for the next worker", async () => {
  await withFolder(async (state) => {
    const tokens = tokensOf(1, 2 * PAGE + 5);
    const worker = openStoreWorker({ ...OPTIONS, state });
    const [one, other] = [await connect(worker), await connect(worker)];
    const units = await saveChain(one, tokens, PLACE);
    assertSameUnits(await other.load(query(tokens, PLACE)), units);
    assertEquals(one.state().pagesWritten, 3);
    await one.close();
    assertEquals(await loadedTokens(other, tokens, PLACE), tokens.length);
    other.save(chainOf(tokensOf(2, PAGE), PLACE)[0]);
    await other.close();
    await worker.close();

    const next = openStoreWorker({ ...OPTIONS, state });
    const store = await connect(next);
    assertEquals(await loadedTokens(store, tokens, PLACE), tokens.length);
    assertEquals(await loadedTokens(store, tokensOf(2, PAGE), PLACE), PAGE);
    await store.close();
    await next.close();
  });
});

Deno.test("a store in a worker hands bytes over without copying them", async () => {
  await withFolder(async (state) => {
    const worker = openStoreWorker({ ...OPTIONS, state });
    const store = await connect(worker);
    const [unit] = chainOf(tokensOf(1, PAGE), PLACE);
    store.save(unit);
    assertEquals(unit.bytes.length, 0, "the buffer has gone to the worker");
    await store.flush();
    await store.close();
    await worker.close();
  });
});

Deno.test("a store in a worker says where its database cannot be opened", async () => {
  await withFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/state`, "no folder");
    const warnings: string[] = [];
    const worker = openStoreWorker({ ...OPTIONS, state: `${folder}/state` }, {
      onWarning: (message) => warnings.push(message),
    });
    const store = await connect(worker);
    assertEquals(await loadedTokens(store, tokensOf(1, PAGE), PLACE), 0);
    await store.flush();
    assertEquals(store.state().state, "unavailable");
    await store.close();
    await worker.close();
    assertEquals(warnings.length, 1);
  });
});

Deno.test("a worker that says nothing costs one wait, and is used again when it speaks", async () => {
  const { port1, port2 } = new MessageChannel();
  const store = new RemoteUnitStore(port1, { silenceMs: 100 });
  const tokens = tokensOf(1, PAGE);
  let start = performance.now();
  assertEquals(await loadedTokens(store, tokens, PLACE), 0);
  assertLess(performance.now() - start, 1000);
  assertEquals(store.state().state, "unavailable");
  start = performance.now();
  assertEquals(await loadedTokens(store, tokens, PLACE), 0);
  assertLess(performance.now() - start, 50);
  store.save(chainOf(tokens, PLACE)[0]);
  assertEquals(store.state().pagesDropped, 1);
  await store.flush();

  const [unit] = chainOf(tokens, PLACE);
  const stop = serveStore(port2, scriptedStore([unit]));
  await new Promise((done) => setTimeout(done, 50));
  assertEquals(store.state().state, "ready");
  assertEquals(await loadedTokens(store, tokens, PLACE), PAGE);
  await store.close();
  stop();
});

Deno.test("no more bytes are on their way to a worker than may be", async () => {
  const { port1, port2 } = new MessageChannel();
  const bytes = PAGE * PLACE.bytesPerToken;
  const store = new RemoteUnitStore(port1, { queueBytes: 2.5 * bytes });
  for (const unit of chainOf(tokensOf(1, 5 * PAGE), PLACE)) store.save(unit);
  assertEquals(store.state().pagesDropped, 3);
  const saved: StoredUnit[] = [];
  const stop = serveStore(port2, scriptedStore([], saved));
  await store.flush();
  assertEquals(saved.length, 2);
  store.save(chainOf(tokensOf(2, PAGE), PLACE)[0]);
  await store.flush();
  assertEquals(saved.length, 3);
  await store.close();
  stop();
});

Deno.test("who no longer waits gets nothing, at once, and the store is told", async () => {
  const { port1, port2 } = new MessageChannel();
  const told = Promise.withResolvers<void>();
  const stop = serveStore(port2, {
    ...scriptedStore([]),
    load: ({ signal }) =>
      new Promise((resolve) =>
        signal!.addEventListener("abort", () => {
          told.resolve();
          resolve([]);
        })
      ),
  });
  const store = new RemoteUnitStore(port1);
  const abort = new AbortController();
  const load = store.load({ ...query(tokensOf(1, PAGE), PLACE), signal: abort.signal });
  await new Promise((done) => setTimeout(done, 20));
  abort.abort();
  assertEquals(await load, []);
  await told.promise;
  await store.close();
  stop();
});

Deno.test("a load that takes longer than the silence allowed goes on while the worker is alive", async () => {
  const { port1, port2 } = new MessageChannel();
  const [unit] = chainOf(tokensOf(1, PAGE), PLACE);
  const stop = serveStore(port2, {
    ...scriptedStore([]),
    async load() {
      await new Promise((done) => setTimeout(done, 1000));
      return [unit];
    },
  });
  const store = new RemoteUnitStore(port1, { silenceMs: 600 });
  assertEquals(await loadedTokens(store, tokensOf(1, PAGE), PLACE), PAGE);
  await store.close();
  stop();
});

Deno.test("a store that is closed finds nothing and takes nothing", async () => {
  const { port1, port2 } = new MessageChannel();
  const store = new RemoteUnitStore(port1);
  await store.close();
  assertEquals(await loadedTokens(store, tokensOf(1, PAGE), PLACE), 0);
  store.save(chainOf(tokensOf(1, PAGE), PLACE)[0]);
  await store.flush();
  assert(store.state().state === "unavailable");
  port2.close();
});

/** A store that finds `found` whatever it is asked for, and puts what it is given into `saved`. */
function scriptedStore(found: StoredUnit[], saved: StoredUnit[] = []): UnitStore {
  return {
    load: () => Promise.resolve(found.map((unit) => ({ ...unit, bytes: unit.bytes.slice() }))),
    save: (unit) => void saved.push(unit),
    state: () => ({
      state: "ready",
      entries: 0,
      bytes: 0,
      pagesRead: 0,
      pagesWritten: 0,
      pagesDropped: 0,
      pagesEvicted: 0,
      pagesRefused: 0,
      errors: 0,
    }),
    flush: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
}
