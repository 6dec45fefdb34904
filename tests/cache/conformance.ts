/** What every store of units must do, whatever it is made of. */

import { assert, assertEquals, assertLessOrEqual } from "@std/assert";
import type { UnitsInKv } from "../../src/cache/units_in_kv.ts";
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

export interface OpenOptions {
  readonly model: string;
  readonly quotaBytes: number;
  readonly expiryMs: number;
  readonly now: () => number;
  readonly onWarning: (message: string) => void;
}

/** A medium for one test; stores that it opens share what is in it. */
export interface TestMedium extends AsyncDisposable {
  open(options: OpenOptions): UnitsInKv;
}

export interface ConformanceOptions {
  readonly name: string;
  readonly make: () => Promise<TestMedium>;
  /** Why the tests cannot run. */
  readonly skip?: string;
}

/** Larger than a chunk for a whole unit: 192,000 bytes. */
const BYTES_PER_TOKEN = 3000;
const DAY_MS = 86_400_000;
const ROOT = rootOf("somebody");
const PLACE = { root: ROOT, bytesPerToken: BYTES_PER_TOKEN };

export function storeConformance({ name, make, skip }: ConformanceOptions): void {
  /** A test in which no warning may come. */
  function test(
    what: string,
    body: (open: (options?: Partial<OpenOptions>) => UnitsInKv) => Promise<void>,
  ) {
    const title = `${name} ${what}${skip === undefined ? "" : ` (skipped: ${skip})`}`;
    Deno.test({
      name: title,
      ignore: skip !== undefined,
      async fn() {
        await using medium = await make();
        const stores: UnitsInKv[] = [];
        const warnings: string[] = [];
        try {
          await body((options) => {
            const store = medium.open({
              model: MODEL,
              quotaBytes: 1e9,
              expiryMs: DAY_MS,
              now: Date.now,
              onWarning: (message) => warnings.push(message),
              ...options,
            });
            stores.push(store);
            return store;
          });
          assertEquals(warnings, []);
        } finally {
          await Promise.all(stores.map((store) => store.close()));
        }
      },
    });
  }

  test("gives back whole units and the shorter one behind them", async (open) => {
    const store = open();
    const tokens = tokensOf(1, 3 * PAGE + 21);
    const units = await saveChain(store, tokens, PLACE);
    assertSameUnits(await store.load(query(tokens, PLACE)), units);
    const { state, entries, bytes, pagesRead, pagesWritten, pagesDropped } = store.state();
    assertEquals({ state, entries, bytes, pagesRead, pagesWritten, pagesDropped }, {
      state: "ready",
      entries: 4,
      bytes: tokens.length * BYTES_PER_TOKEN,
      pagesRead: 4,
      pagesWritten: 4,
      pagesDropped: 0,
    });
  });

  test("gives back units to a store that is opened later", async (open) => {
    const tokens = tokensOf(1, 2 * PAGE + 5);
    const first = open();
    const units = await saveChain(first, tokens, PLACE);
    await first.close();
    assertSameUnits(await open().load(query(tokens, PLACE)), units);
  });

  test("never gives more tokens than were asked for", async (open) => {
    const store = open();
    const tokens = tokensOf(1, 2 * PAGE + 30);
    await saveChain(store, tokens, PLACE);
    assertEquals(await loadedTokens(store, tokens.slice(0, 2 * PAGE + 29), PLACE), 2 * PAGE);
    assertEquals(await loadedTokens(store, tokens.slice(0, 2 * PAGE - 1), PLACE), PAGE);
    assertEquals(await loadedTokens(store, tokens.slice(0, PAGE - 1), PLACE), 0);
    assertEquals(await loadedTokens(store, [], PLACE), 0);
  });

  test("takes the longest of the shorter units that begin the rest", async (open) => {
    const store = open();
    const tokens = tokensOf(1, PAGE + 40);
    for (const length of [PAGE + 10, PAGE + 33, PAGE + 20]) {
      await saveChain(store, tokens.slice(0, length), PLACE);
    }
    assertEquals(await loadedTokens(store, tokens, PLACE), PAGE + 33);
    const other = [...tokens.slice(0, PAGE + 25), ...tokensOf(2, 15)];
    assertEquals(await loadedTokens(store, other, PLACE), PAGE + 20);
  });

  test("stops at the first unit that is missing", async (open) => {
    const store = open();
    const tokens = tokensOf(1, 4 * PAGE);
    const units = chainOf(tokens, PLACE);
    for (const i of [0, 1, 3]) store.save(units[i]);
    await store.flush();
    assertEquals(await loadedTokens(store, tokens, PLACE), 2 * PAGE);
  });

  test("finds nothing under another root", async (open) => {
    const store = open();
    const tokens = tokensOf(1, PAGE + 3);
    await saveChain(store, tokens, PLACE);
    const other = { ...PLACE, root: rootOf("somebody else") };
    assertEquals(await loadedTokens(store, tokens, other), 0);
  });

  test("does not write a unit that is there", async (open) => {
    const store = open();
    const tokens = tokensOf(1, 2 * PAGE);
    await saveChain(store, tokens, PLACE);
    await saveChain(store, tokens, PLACE);
    assertEquals(store.state().pagesWritten, 2);
    assertEquals(store.state().entries, 2);
  });

  test("refuses and removes a unit of another length than it must have", async (open) => {
    const store = open();
    const tokens = tokensOf(1, 2 * PAGE);
    await saveChain(store, tokens, PLACE);
    const longer = { ...PLACE, bytesPerToken: BYTES_PER_TOKEN + 1 };
    assertEquals(await loadedTokens(store, tokens, longer), 0);
    await store.flush();
    assertEquals(store.state().pagesRefused, 2);
    assertEquals(await loadedTokens(store, tokens, PLACE), 0);
  });

  test("shares units with a store that has another name for the model", async (open) => {
    const tokens = tokensOf(1, PAGE);
    await saveChain(open({ model: "another name" }), tokens, PLACE);
    assertEquals(await loadedTokens(open(), tokens, PLACE), PAGE);
  });

  test("drops what nobody used in time, and keeps what somebody did", async (open) => {
    let now = Date.now();
    const store = open({ now: () => now, expiryMs: 10_000_000 });
    const [used, unused] = [tokensOf(1, PAGE), tokensOf(2, PAGE)];
    await saveChain(store, used, PLACE);
    await saveChain(store, unused, PLACE);
    for (let i = 0; i < 5; i++) {
      now += 6_000_000;
      assertEquals(await loadedTokens(store, used, PLACE), PAGE, `after ${i + 1} waits`);
      await store.flush();
    }
    assertEquals(await loadedTokens(store, unused, PLACE), 0);
    await store.upkeep();
    assertEquals(store.state().entries, 1);
    now += 10_000_001;
    assertEquals(await loadedTokens(store, used, PLACE), 0);
  });

  test("keeps to its quota and lets the least recently used units go, also after reopening", async (open) => {
    let now = Date.now();
    const unit = PAGE * BYTES_PER_TOKEN;
    const options = { now: () => now, quotaBytes: 10 * unit };
    const first = open(options);
    for (let i = 0; i < 10; i++) {
      now += 1000;
      await saveChain(first, tokensOf(i, PAGE), PLACE);
    }
    now += 100_000;
    assertEquals(await loadedTokens(first, tokensOf(0, PAGE), PLACE), PAGE);
    await first.close();
    const second = open(options);
    await second.upkeep();
    assertEquals(second.state().entries, 10);
    now += 1000;
    await saveChain(second, tokensOf(10, PAGE), PLACE);
    assertLessOrEqual(second.state().bytes, options.quotaBytes);
    assertEquals(second.state().pagesEvicted, 2);
    const kept: number[] = [];
    for (let i = 0; i <= 10; i++) {
      if (await loadedTokens(second, tokensOf(i, PAGE), PLACE) > 0) kept.push(i);
    }
    assertEquals(kept, [0, 3, 4, 5, 6, 7, 8, 9, 10]);
  });

  test("lets the end of a chain go before its beginning", async (open) => {
    const unit = PAGE * BYTES_PER_TOKEN;
    const store = open({ quotaBytes: 6 * unit });
    const tokens = tokensOf(1, 6 * PAGE);
    await saveChain(store, tokens, PLACE);
    await saveChain(store, tokensOf(2, PAGE), PLACE);
    assertEquals(await loadedTokens(store, tokens, PLACE), 4 * PAGE);
  });

  test("comes below the quota that several instances share", async (open) => {
    const quotaBytes = 8 * PAGE * BYTES_PER_TOKEN;
    const stores = [open({ quotaBytes }), open({ quotaBytes }), open({ quotaBytes })];
    await Promise.all(stores.map(async (store, who) => {
      for (let i = 0; i < 6; i++) await saveChain(store, tokensOf(10 * who + i, PAGE), PLACE);
    }));
    await Promise.all(stores.map((store) => store.upkeep()));
    await stores[0].upkeep();
    assertLessOrEqual(stores[0].state().bytes, quotaBytes);
    assert(stores[0].state().entries >= 4, `${stores[0].state().entries} entries are left`);
    assertEquals(stores.reduce((sum, store) => sum + store.state().pagesRefused, 0), 0);
  });

  test("is shared by two writers of the same units, without mixing theirs", async (open) => {
    const stores = [open(), open()];
    const chains = Array.from({ length: 6 }, (_, i) => tokensOf(i, 2 * PAGE + 7));
    await Promise.all(stores.map(async (store) => {
      for (const tokens of chains) {
        for (const unit of chainOf(tokens, PLACE)) store.save(unit);
      }
      await store.flush();
    }));
    for (const store of stores) {
      for (const tokens of chains) {
        assertEquals(await loadedTokens(store, tokens, PLACE), tokens.length);
      }
      assertEquals(store.state().pagesRefused, 0);
      assertEquals(store.state().errors, 0);
    }
    const written = stores.reduce((sum, store) => sum + store.state().pagesWritten, 0);
    assertEquals(written, 3 * chains.length);
  });

  test("gives nothing to who no longer waits", async (open) => {
    const store = open();
    const tokens = tokensOf(1, 2 * PAGE);
    await saveChain(store, tokens, PLACE);
    const signal = AbortSignal.abort();
    assertEquals(await store.load({ ...query(tokens, PLACE), signal }), []);
  });

  test("keeps units of a single byte and of many chunks", async (open) => {
    const store = open();
    const tokens = tokensOf(1, PAGE);
    for (const bytesPerToken of [1, 25_000]) {
      const root = rootOf(String(bytesPerToken));
      await saveChain(store, tokens.slice(0, 1), { root, bytesPerToken });
      await saveChain(store, tokens, { root, bytesPerToken });
      assertEquals(await loadedTokens(store, tokens, { root, bytesPerToken }), PAGE);
      assertEquals(await loadedTokens(store, tokens.slice(0, 1), { root, bytesPerToken }), 1);
    }
  });
}
