/** Two instances on one real KV Connect server, which goes away and comes back. */

import { assert, assertEquals, assertGreater } from "@std/assert";
import { remoteMedium } from "../../src/cache/deno_kv.ts";
import { UnitsInKv } from "../../src/cache/units_in_kv.ts";
import { DENOKV, DenokvServer } from "./_denokv.ts";
import { loadedTokens, MODEL, PAGE, rootOf, saveChain, tokensOf } from "./_units.ts";

const PLACE = { root: rootOf("somebody"), bytesPerToken: 3000 };
/** How long the server is away; longer than two calls may take. */
const AWAY_MS = 2500;
/** Longer than opening may take, and than the wait after two failures. */
const RECOVERY_MS = 5000;

Deno.test({
  name: "stores under load outlive a restart of denokv, with nothing wrong and nothing late" +
    (DENOKV.missing === undefined ? "" : ` (skipped: ${DENOKV.missing})`),
  ignore: DENOKV.missing !== undefined,
  async fn() {
    await using server = await DenokvServer.start();
    const stores = [1, 2].map(() =>
      new UnitsInKv({
        medium: remoteMedium(server.url),
        model: MODEL,
        quotaBytes: 1e9,
        expiryMs: 86_400_000,
      })
    );
    let isLoaded = true;
    let longestMs = 0;
    const load = stores.map(async (store, who) => {
      for (let i = 0; isLoaded; i++) {
        await saveChain(store, tokensOf(1000 * who + i, 2 * PAGE + 3), PLACE);
        const start = performance.now();
        await loadedTokens(store, tokensOf(Math.floor(1000 * who + i / 2), 2 * PAGE + 3), PLACE);
        longestMs = Math.max(longestMs, performance.now() - start);
        await new Promise((done) => setTimeout(done, 5));
      }
    });
    await new Promise((done) => setTimeout(done, 500));
    await server.stop();
    await new Promise((done) => setTimeout(done, AWAY_MS));
    assert(stores.every((store) => store.state().state === "unavailable"));
    await server.start();
    const back = performance.now();
    while (performance.now() - back < RECOVERY_MS) {
      if (stores.every((store) => store.state().state === "ready")) break;
      await new Promise((done) => setTimeout(done, 50));
    }
    assertEquals(stores.map((store) => store.state().state), ["ready", "ready"]);
    await new Promise((done) => setTimeout(done, 300));
    isLoaded = false;
    await Promise.all(load);
    const tokens = tokensOf(5000, 3 * PAGE);
    await saveChain(stores[0], tokens, PLACE);
    assertEquals(await loadedTokens(stores[1], tokens, PLACE), 3 * PAGE);
    for (const store of stores) {
      assertGreater(store.state().pagesRead, 0);
      await store.close();
    }
    assert(longestMs < 2500, `a load took ${longestMs} ms`);
  },
});
