/** Processes that die while they write, files whose bits flip, disks that fill up: nothing wrong comes back. */

import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertMatch,
  assertNotEquals,
} from "@std/assert";
import { localMedium } from "../../src/cache/local_database.ts";
import { listUnits, readBytes, removeOrphans } from "../../src/cache/inventory.ts";
import { CHUNKS, listAll } from "../../src/cache/kv.ts";
import { KvPlace } from "../../src/cache/places.ts";
import { UnitsInKv } from "../../src/cache/units_in_kv.ts";
import type { FlipResult } from "./_bit_flips.ts";
import {
  assertRight,
  becomesReady,
  CHAINS,
  loadedTokens,
  MODEL,
  PAGE,
  rootOf,
  saveChain,
  tokensOf,
} from "./_units.ts";

const PLACE = { root: rootOf("somebody"), bytesPerToken: 2000 };
/** How often a writer is killed; 200 times to be sure. */
const KILLS = Number(Deno.env.get("SLUICE_KILLS") ?? 24);
const WRITERS_AT_ONCE = 4;
/** How many copies of a database get flipped bits. */
const DAMAGED_COPIES = Number(Deno.env.get("SLUICE_DAMAGED_COPIES") ?? 40);

/** How this test's own processes are run. */
const RUN = ["run", "--no-check", "--quiet", "--allow-read", "--allow-write", "--allow-env"];

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "sluice-damage-" });
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function open(folder: string, warnings: string[] = []): UnitsInKv {
  return new UnitsInKv({
    medium: localMedium(folder),
    model: MODEL,
    quotaBytes: 1e9,
    expiryMs: 86_400_000,
    onWarning: (message) => warnings.push(message),
  });
}

Deno.test(`${KILLS} writers that are killed leave whole units, and remains that a sweep finds`, async () => {
  await withFolder(async (folder) => {
    let next = 0;
    const killer = async () => {
      while (next < KILLS) {
        const seed = next++;
        const writer = new Deno.Command(Deno.execPath(), {
          args: [
            ...RUN,
            new URL("./_writer.ts", import.meta.url).pathname,
            folder,
            String(seed % 8),
          ],
          stdout: "piped",
          stderr: "inherit",
        }).spawn();
        await writer.stdout.getReader().read();
        await new Promise((done) => setTimeout(done, 40 * Math.random()));
        writer.kill("SIGKILL");
        await writer.status;
      }
    };
    await Promise.all(Array.from({ length: WRITERS_AT_ONCE }, killer));

    const kv = await localMedium(folder).open();
    try {
      const session = { kv, step: <T>(call: Promise<T>) => call };
      const places = new Map([["kv", new KvPlace()] as const]);
      let units = 0;
      for await (const { key, manifest } of listUnits(session)) {
        assert(manifest !== null, `the manifest of ${key} is damaged`);
        const bytes = await readBytes(session, { manifest, places });
        assert(bytes !== null, `the bytes of ${key} are not whole`);
        assertRight([{ key, parent: manifest.parent, tokens: manifest.tokens, bytes }]);
        units++;
      }
      assertGreater(units, 0);
      await removeOrphans(session, { places, before: Infinity });
      const named = new Set<string>();
      for await (const { manifest } of listUnits(session)) named.add(manifest!.writeId);
      for await (const { key } of listAll(session, { prefix: CHUNKS, batchSize: 64 })) {
        assert(named.has(String(key[CHUNKS.length])), `chunk ${key} is nobody's`);
      }
    } finally {
      kv.close();
    }
    const start = performance.now();
    const store = open(folder);
    await saveChain(store, tokensOf(100_000, 2 * PAGE), PLACE);
    assertEquals(await loadedTokens(store, tokensOf(100_000, 2 * PAGE), PLACE), 2 * PAGE);
    assertLess(performance.now() - start, 2000);
    await store.close();
  });
});

for (const isReplaced of [false, true]) {
  const what = isReplaced ? "that another one has replaced" : "that somebody has removed";
  Deno.test(`a database ${what} is noticed by the next look around, and made or opened anew`, async () => {
    await withFolder(async (folder) => {
      const warnings: string[] = [];
      const state = `${folder}/state`;
      const store = open(state, warnings);
      const [mine, others] = [tokensOf(1, 2 * PAGE), tokensOf(2, 2 * PAGE)];
      await saveChain(store, mine, PLACE);
      if (isReplaced) {
        const other = open(`${folder}/other`);
        await saveChain(other, others, PLACE);
        await other.close();
      }
      await Deno.remove(state, { recursive: true });
      if (isReplaced) await Deno.rename(`${folder}/other`, state);
      await store.upkeep();
      await becomesReady(store);
      assertMatch(
        warnings.join("\n"),
        /^cannot read the prefix cache: the database has been removed/,
      );
      assertEquals(await loadedTokens(store, mine, PLACE), 0);
      assertEquals(await loadedTokens(store, others, PLACE), isReplaced ? 2 * PAGE : 0);
      await saveChain(store, mine, PLACE);
      await store.close();
      const next = open(state);
      assertEquals(await loadedTokens(next, mine, PLACE), 2 * PAGE);
      await next.close();
    });
  });
}

Deno.test("bits that flip anywhere in a database's file never give a wrong byte", async () => {
  await withFolder(async (folder) => {
    const store = open(`${folder}/whole`);
    for (const tokens of CHAINS) await saveChain(store, tokens, PLACE);
    await store.close();
    const results: FlipResult[] = [];
    let ended = 0;
    while (results.length + ended < DAMAGED_COPIES) {
      const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: [
          ...RUN,
          new URL("./_bit_flips.ts", import.meta.url).pathname,
          `${folder}/whole/kv.sqlite3`,
          folder,
          String(results.length + ended),
          String(DAMAGED_COPIES),
        ],
      }).output();
      const lines = new TextDecoder().decode(stdout).split("\n").slice(0, -1);
      results.push(...lines.map((line) => JSON.parse(line) as FlipResult));
      if (code === 0) break;
      const reason = new TextDecoder().decode(stderr);
      assert(reason.includes("Deno has panicked") && reason.includes("denokv"), reason);
      ended++;
    }
    assertEquals(results.length + ended, DAMAGED_COPIES);
    assertLess(ended, 2 + DAMAGED_COPIES / 100);
    assert(results.some(({ found }) => found > 0));
    assert(results.some(({ missed }) => missed > 0), "some flips must have been noticed");
    assert(results.some(({ isSetAside }) => isSetAside), "some must have been set aside");
  });
});

Deno.test("a local database that is none is set aside and made anew", async () => {
  await withFolder(async (folder) => {
    for (let round = 0; round < 2; round++) {
      await Deno.writeTextFile(`${folder}/kv.sqlite3`, "this is not a database ".repeat(1000));
      await Deno.remove(`${folder}/kv.sqlite3-wal`).catch(() => {});
      await Deno.remove(`${folder}/kv.sqlite3-shm`).catch(() => {});
      const warnings: string[] = [];
      const store = open(folder, warnings);
      await becomesReady(store);
      assertEquals(warnings.length, 1);
      assertMatch(
        warnings[0],
        /file is not a database; it was set aside as .*kv\.sqlite3\.damaged-/,
      );
      await saveChain(store, tokensOf(1, PAGE), PLACE);
      assertEquals(await loadedTokens(store, tokensOf(1, PAGE), PLACE), PAGE);
      await store.close();
      const names = Array.from(Deno.readDirSync(folder), ({ name }) => name);
      assertEquals(names.filter((name) => name.includes(".damaged-")).length, 1, `${names}`);
    }
  });
});

Deno.test("a database that another process has made anew is not set aside", async () => {
  await withFolder(async (folder) => {
    const medium = localMedium(folder);
    (await medium.open()).close();
    await Deno.remove(`${folder}/kv.sqlite3`);
    (await localMedium(folder).open()).close();
    assertEquals(await medium.setAside(), null);
    (await medium.open()).close();
    assertNotEquals(await medium.setAside(), null);
  });
});

Deno.test("a state folder that cannot be made costs the cache alone, until it can", async () => {
  await withFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/state`, "a file where a folder must be");
    const warnings: string[] = [];
    const store = open(`${folder}/state`, warnings);
    await saveChain(store, tokensOf(1, PAGE), PLACE);
    assertEquals(await loadedTokens(store, tokensOf(1, PAGE), PLACE), 0);
    assertEquals(warnings.length, 1);
    await Deno.remove(`${folder}/state`);
    await becomesReady(store);
    await saveChain(store, tokensOf(1, PAGE), PLACE);
    assertEquals(await loadedTokens(store, tokensOf(1, PAGE), PLACE), PAGE);
    await store.close();
  });
});

const TMPFS_BYTES = 4 * 1024 * 1024;
const noMount = await whyNoMount();

Deno.test({
  name: "a disk that fills up costs new entries alone, and what was written stays right" +
    (noMount === null ? "" : ` (skipped: ${noMount})`),
  ignore: noMount !== null,
  async fn() {
    await withFolder(async (folder) => {
      await mount(folder);
      try {
        const warnings: string[] = [];
        const store = open(folder, warnings);
        const chains = Array.from({ length: 40 }, (_, i) => tokensOf(i, 2 * PAGE));
        for (const tokens of chains) await saveChain(store, tokens, PLACE);
        const { pagesWritten, pagesDropped } = store.state();
        assertGreater(pagesWritten, 0);
        assertGreater(pagesDropped, 0);
        assertEquals(warnings.length, 1);
        assertMatch(warnings[0], /cannot write the prefix cache: .*full/);
        let found = 0;
        for (const tokens of chains) found += await loadedTokens(store, tokens, PLACE);
        assertGreater(found, 0);
        await store.close();
        const again = open(folder);
        let foundAgain = 0;
        for (const tokens of chains) foundAgain += await loadedTokens(again, tokens, PLACE);
        assertEquals(foundAgain, found);
        await again.close();
      } finally {
        await run("umount", [folder]);
      }
    });
  },
});

async function mount(folder: string): Promise<string | null> {
  return await run("mount", ["-t", "tmpfs", "-o", `size=${TMPFS_BYTES}`, "tmpfs", folder]);
}

async function whyNoMount(): Promise<string | null> {
  const folder = await Deno.makeTempDir({ prefix: "sluice-mount-" });
  const reason = await mount(folder);
  if (reason === null) await run("umount", [folder]);
  await Deno.remove(folder);
  return reason === null ? null : `a tmpfs cannot be mounted here: ${reason}`;
}

/** Runs a program; returns what it said where it failed. */
async function run(program: string, args: string[]): Promise<string | null> {
  try {
    const { success, stderr } = await new Deno.Command(program, { args }).output();
    return success ? null : new TextDecoder().decode(stderr).trim().split("\n")[0];
  } catch (error) {
    return (error as Error).message;
  }
}
