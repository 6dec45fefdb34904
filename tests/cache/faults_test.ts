/** A database that throws, hangs, is slow, full or gone costs nothing but the cache. */

import { assert, assertEquals, assertGreater, assertLess, assertMatch } from "@std/assert";
import { withFaults } from "../../src/cache/faults.ts";
import { remoteMedium } from "../../src/cache/deno_kv.ts";
import { LINK_LIMITS, type LinkLimits } from "../../src/cache/link.ts";
import { UnitsInKv, type UnitsInKvOptions } from "../../src/cache/units_in_kv.ts";
import { parseFaults } from "../../src/faults.ts";
import { MemoryDatabase } from "./_memory_kv.ts";
import { chainOf, loadedTokens, MODEL, PAGE, rootOf, saveChain, tokensOf } from "./_units.ts";

const PLACE = { root: rootOf("somebody"), bytesPerToken: 1000 };
const LIMITS: LinkLimits = { openMs: 100, callMs: 50, retryMs: 20, maxRetryMs: 80 };

interface Opened {
  readonly store: UnitsInKv;
  readonly warnings: string[];
}

async function withStore(
  options: Partial<UnitsInKvOptions> & Pick<UnitsInKvOptions, "medium">,
  body: (opened: Opened) => Promise<void>,
): Promise<void> {
  const warnings: string[] = [];
  const store = new UnitsInKv({
    model: MODEL,
    quotaBytes: 1e9,
    expiryMs: 86_400_000,
    limits: LIMITS,
    onWarning: (message) => warnings.push(message),
    ...options,
  });
  try {
    await body({ store, warnings });
  } finally {
    await store.close();
  }
}

/** Waits until `isSo`, at most two seconds. */
async function until(isSo: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 200 && !isSo(); i++) await new Promise((done) => setTimeout(done, 10));
  assert(isSo(), `${what} within two seconds`);
}

const tokens = tokensOf(1, 2 * PAGE + 9);

Deno.test("a store whose database throws finds nothing, says so once and comes back by itself", async () => {
  const medium = new MemoryDatabase();
  await withStore({ medium }, async ({ store, warnings }) => {
    await saveChain(store, tokens, PLACE);
    medium.error = new Error("the disk is on fire");
    assertEquals(await loadedTokens(store, tokens, PLACE), 0);
    assertEquals(store.state().state, "unavailable");
    const calls = medium.calls;
    assertEquals(await loadedTokens(store, tokens, PLACE), 0);
    assertEquals(medium.calls, calls, "nothing is tried until the wait is over");
    store.save(chainOf(tokensOf(2, PAGE), PLACE)[0]);
    assertEquals(store.state().pagesDropped, 1);
    await until(() => medium.opened >= 4, "it was opened again and again");
    assertEquals(warnings.length, 1);
    assertMatch(warnings[0], /cannot (read|write) the prefix cache: the disk is on fire/);
    medium.error = null;
    await until(() => store.state().state === "ready", "it is ready again");
    assertEquals(await loadedTokens(store, tokens, PLACE), tokens.length);
    assertGreater(store.state().errors, 3);
  });
});

Deno.test("a store warns again after a minute", async () => {
  const medium = new MemoryDatabase();
  let now = 1e12;
  await withStore({ medium, now: () => now }, async ({ store, warnings }) => {
    await saveChain(store, tokens, PLACE);
    medium.error = new Error("gone");
    await store.load({ parent: PLACE.root, tokens, unitBytes: [] });
    await until(() => medium.opened >= 4, "it was opened again and again");
    assertEquals(warnings.length, 1);
    now += 60_000;
    await until(() => warnings.length === 2, "there was a second warning");
  });
});

Deno.test("a store whose database hangs gives up in time, and comes back", async () => {
  const medium = new MemoryDatabase();
  await withStore({ medium }, async ({ store }) => {
    await saveChain(store, tokens, PLACE);
    medium.hangs = true;
    const start = performance.now();
    assertEquals(await loadedTokens(store, tokens, PLACE), 0);
    assertLess(performance.now() - start, 500);
    medium.hangs = false;
    await until(() => store.state().state === "ready", "it is ready again");
    assertEquals(await loadedTokens(store, tokens, PLACE), tokens.length);
  });
});

Deno.test("a store whose database hangs while it opens lets nobody wait longer than a call may take", async () => {
  const medium = new MemoryDatabase();
  medium.hangs = true;
  await withStore({ medium, limits: { ...LIMITS, openMs: 1500 } }, async ({ store }) => {
    assertEquals(store.state().state, "opening");
    const start = performance.now();
    assertEquals(await loadedTokens(store, tokens, PLACE), 0);
    assertLess(performance.now() - start, 1000);
  });
});

Deno.test("a store whose database takes its time, but not too long, is only slower", async () => {
  const medium = new MemoryDatabase();
  await withStore({ medium, limits: { ...LIMITS, callMs: 1000 } }, async ({ store, warnings }) => {
    await saveChain(store, tokens, PLACE);
    medium.slowMs = 20;
    assertEquals(await loadedTokens(store, tokens, PLACE), tokens.length);
    assertEquals(warnings, []);
  });
});

Deno.test("a store on a full disk reads on, drops what it cannot write, and writes again once there is room", async () => {
  const medium = new MemoryDatabase();
  await withStore({ medium }, async ({ store, warnings }) => {
    await saveChain(store, tokens, PLACE);
    medium.writeError = new TypeError("database or disk is full");
    await saveChain(store, tokensOf(2, 3 * PAGE), PLACE);
    assertEquals(store.state().pagesDropped, 3);
    assertEquals(await loadedTokens(store, tokens, PLACE), tokens.length);
    assertEquals(warnings.length, 1);
    assertMatch(warnings[0], /cannot write the prefix cache: database or disk is full/);
    medium.writeError = null;
    await until(() => store.state().state === "ready", "it writes again");
    await saveChain(store, tokensOf(2, 3 * PAGE), PLACE);
    assertEquals(await loadedTokens(store, tokensOf(2, 3 * PAGE), PLACE), 3 * PAGE);
  });
});

Deno.test("a store drops what its queue cannot hold", async () => {
  const medium = new MemoryDatabase();
  await withStore({ medium, queueBytes: 2.5 * PAGE * 1000 }, async ({ store }) => {
    await saveChain(store, tokensOf(1, 5 * PAGE), PLACE);
    const { pagesWritten, pagesDropped } = store.state();
    assertEquals({ pagesWritten, pagesDropped }, { pagesWritten: 2, pagesDropped: 3 });
    await saveChain(store, tokensOf(1, 5 * PAGE).slice(0, 2 * PAGE), PLACE);
    assertEquals(store.state().pagesDropped, 3, "the queue has room again");
  });
});

Deno.test("a store that is closed while its database hangs closes all the same", async () => {
  const medium = new MemoryDatabase();
  await withStore({ medium }, async ({ store }) => {
    await saveChain(store, tokens, PLACE);
    medium.hangs = true;
    store.save(chainOf(tokensOf(2, PAGE), PLACE)[0]);
  });
});

Deno.test("any single call to the database may fail without a wrong byte, and the next load is right", async () => {
  const medium = new MemoryDatabase();
  for (let call = 1; call <= 30; call++) {
    const faulty = withFaults(medium, parseFaults(`kv:${call}`));
    await withStore({ medium: faulty }, async ({ store }) => {
      const mine = tokensOf(call, 2 * PAGE + 9);
      await saveChain(store, mine, PLACE);
      let found = 0;
      // The fault is in the first round, or else in the second one.
      for (let round = 0; round < 3; round++) {
        await saveChain(store, mine, PLACE);
        found = await loadedTokens(store, mine, PLACE);
        await until(() => store.state().state === "ready", `ready after a fault in call ${call}`);
      }
      assertEquals(found, mine.length, `after a fault in call ${call}`);
      assertEquals(store.state().errors, 1);
    });
  }
});

Deno.test("a database that is gone from the start is a cache without entries", async () => {
  const medium = withFaults(new MemoryDatabase(), parseFaults("kv:gone"));
  await withStore({ medium }, async ({ store, warnings }) => {
    await saveChain(store, tokens, PLACE);
    assertEquals(await loadedTokens(store, tokens, PLACE), 0);
    assertEquals(store.state().state, "unavailable");
    assertEquals(warnings.length, 1);
  });
});

const mayReachAll = Deno.permissions.querySync({ name: "net" }).state === "granted";
if (mayReachAll) console.log("skipped: what is refused needs --allow-net=127.0.0.1");

Deno.test({
  name: "a server that may not be reached is warned of with what must be permitted",
  ignore: mayReachAll,
  async fn() {
    Deno.env.set("DENO_KV_ACCESS_TOKEN", "a-token-of-the-tests");
    const medium = remoteMedium("https://kv.example");
    await withStore({ medium }, async ({ store, warnings }) => {
      assertEquals(await loadedTokens(store, tokens, PLACE), 0);
      assertEquals(
        warnings[0],
        "cannot open the prefix cache: net access to kv.example:443 is not permitted, must be in " +
          "--allow-net of the task in deno.json (add kv.example:443); going on without it",
      );
    });
  },
});

Deno.test("the limits give a read a second and opening three", () => {
  assertEquals([LINK_LIMITS.callMs, LINK_LIMITS.openMs], [1000, 3000]);
});

Deno.test("a malformed database that is not ours to move is tried again after a while, not at once", async () => {
  const medium = new MemoryDatabase();
  medium.setAside = () => Promise.resolve(null);
  medium.error = new Error("database disk image is malformed");
  await withStore({ medium, limits: { ...LIMITS, retryMs: 60, maxRetryMs: 60 } }, async () => {
    await new Promise((done) => setTimeout(done, 100));
    assertLess(medium.opened, 4);
    assertGreater(medium.opened, 1);
  });
});
