/** A store in a worker of its own, and what its users notice when it is not there. */

import { assert, assertEquals, assertLess, assertMatch } from "@std/assert";
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

/** A store that takes another port whenever the worker behind its own has ended. */
function lasting(worker: StoreWorker): RemoteUnitStore {
  const next = (): MessagePort => worker.connect(() => store.reconnect(next()));
  const store = storeOverPort(next());
  return store;
}

/** Waits until `isSo`, ten seconds at most. */
async function until(isSo: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !isSo(); i++) await new Promise((done) => setTimeout(done, 20));
  assert(isSo(), "within ten seconds");
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

Deno.test("a worker that ends is replaced, and costs its users nothing but what it had not written", async () => {
  await withFolder(async (state) => {
    const workers: Worker[] = [];
    const warnings: string[] = [];
    const worker = openStoreWorker({ ...OPTIONS, state }, {
      onWarning: (message) => warnings.push(message),
      start() {
        const url = new URL("./_mortal_worker.ts", import.meta.url);
        workers.push(new Worker(url, { type: "module" }));
        return workers.at(-1)!;
      },
      limits: { retryMs: 50, maxRetryMs: 100 },
    });
    const [store, other] = [lasting(worker), lasting(worker)];
    const tokens = tokensOf(1, 2 * PAGE + 5);
    await until(() => store.state().state === "ready");
    await saveChain(store, tokens, PLACE);
    for (const deaths of [1, 2]) {
      workers.at(-1)!.postMessage({ type: "die" });
      await until(() => store.state().state === "unavailable");
      const start = performance.now();
      assertEquals(await loadedTokens(store, tokens, PLACE), 0);
      store.save(chainOf(tokens, PLACE)[0]);
      await store.flush();
      assertLess(performance.now() - start, 1000, "nobody waits for a worker that isn't there");
      await until(() => [store, other].every((each) => each.state().state === "ready"));
      for (const each of [store, other]) {
        assertEquals(await loadedTokens(each, tokens, PLACE), tokens.length);
      }
      const { pagesWritten, pagesDropped } = store.state();
      assertEquals([pagesWritten, pagesDropped], [3, deaths], "counts go on");
      assertEquals(workers.length, deaths + 1);
    }
    assertEquals(warnings.length, 1, "one a minute");
    assertMatch(warnings[0], /^the prefix cache's worker ended: .*died on purpose.*; going on/);
    await store.close();
    await other.close();
    await worker.close();
  });
});

Deno.test("a worker that always ends is started again after longer and longer waits, and can be closed", async () => {
  await withFolder(async (state) => {
    const url = URL.createObjectURL(new Blob(["throw new Error('born dead')"]));
    const starts: number[] = [];
    const warnings: string[] = [];
    const worker = openStoreWorker({ ...OPTIONS, state }, {
      onWarning: (message) => warnings.push(message),
      start() {
        starts.push(performance.now());
        return new Worker(url, { type: "module" });
      },
      limits: { retryMs: 100, maxRetryMs: 400 },
    });
    const store = lasting(worker);
    await until(() => starts.length === 5);
    const waits = starts.slice(1).map((time, i) => time - starts[i]);
    for (const [i, ms] of [100, 200, 400, 400].entries()) {
      assert(waits[i] > ms - 10, `the wait before start ${i + 2} was ${waits[i]} ms`);
    }
    const start = performance.now();
    assertEquals(await loadedTokens(store, tokensOf(1, PAGE), PLACE), 0);
    assertLess(performance.now() - start, 1000);
    assertEquals(warnings.length, 1);
    await store.close();
    await worker.close();
    await new Promise((done) => setTimeout(done, 500));
    assertEquals(starts.length, 5, "none is started behind the end");
    URL.revokeObjectURL(url);
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
