/** `deno task cache`: what it shows, removes and repairs. */

import { assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { chainKey } from "../../src/cache/chain.ts";
import { decodeManifest } from "../../src/cache/codec.ts";
import { FilesPlace } from "../../src/cache/files.ts";
import { chunkKey, CHUNKS, listAll, unitKey } from "../../src/cache/kv.ts";
import { localMedium } from "../../src/cache/local_database.ts";
import { UnitsInKv } from "../../src/cache/units_in_kv.ts";
import { main } from "../../src/cli/cache.ts";
import { OptionError } from "../../src/errors.ts";
import { PAGE, rootOf, saveChain, tokensOf } from "../cache/_units.ts";
import { recordedIo } from "./_io.ts";

const DAY_MS = 86_400_000;

interface Filling {
  readonly model: string;
  readonly tenant: string;
  readonly seed: number;
  readonly ageMs?: number;
  readonly files?: string;
}

/** A folder with a chain of 150 tokens, 3 units, for each filling. */
async function withState(
  fillings: readonly Filling[],
  body: (state: string) => Promise<void>,
): Promise<void> {
  const state = await Deno.makeTempDir({ prefix: "sluice-cli-cache-" });
  try {
    for (const { model, tenant, seed, ageMs = 0, files } of fillings) {
      const store = new UnitsInKv({
        medium: localMedium(state),
        model,
        quotaBytes: 1e9,
        expiryMs: 30 * DAY_MS,
        now: () => Date.now() - ageMs,
        files: files === undefined ? undefined : new FilesPlace(`${state}/${files}`),
      });
      await saveChain(store, tokensOf(seed, 150), { root: rootOf(tenant), bytesPerToken: 1000 });
      await store.close();
    }
    await body(state);
  } finally {
    await Deno.remove(state, { recursive: true });
  }
}

async function run(...args: string[]): Promise<{ code: number; out: string }> {
  const io = recordedIo({ env: { SLUICE_MODEL: "/the/server's/model.gguf" } });
  const code = await main(args, io);
  return { code, out: io.out() };
}

const TWO: Filling[] = [
  { model: "one", tenant: "anna", seed: 1 },
  { model: "one", tenant: "ben", seed: 2 },
  { model: "two", tenant: "anna", seed: 3, ageMs: 3 * DAY_MS },
];

Deno.test("cache ls groups units by model and tenant, in the order of their chains", async () => {
  await withState(TWO, async (state) => {
    const { code, out } = await run("ls", "--state", state);
    assertEquals(code, 0);
    const models = out.split("\n\n");
    assertEquals(models.length, 2);
    assertStringIncludes(models[0], "one: 300 kB");
    assertStringIncludes(models[0], `tenant ${rootOf("anna").slice(0, 12)}: 3 units, 150 kB`);
    assertStringIncludes(models[0], `tenant ${rootOf("ben").slice(0, 12)}`);
    const key = chainKey(rootOf("anna"), tokensOf(3, PAGE)).slice(0, 12);
    assertMatch(models[1], new RegExp(`${key} +0-64 +64.0 kB +3 d +3 d\n.* 64-128 .*\n.* 128-150`));
  });
});

Deno.test("cache stat counts units, tokens and bytes", async () => {
  await withState(TWO, async (state) => {
    const { code, out } = await run("stat", "--state", state, "--json");
    assertEquals(code, 0);
    const { models, units, bytes, damaged, expired } = JSON.parse(out);
    assertEquals({ units, bytes, damaged, expired }, {
      units: 9,
      bytes: 450_000,
      damaged: 0,
      expired: 0,
    });
    assertEquals(models[0], { model: "one", tenants: 2, units: 6, tokens: 300, bytes: 300_000 });
    assertMatch((await run("stat", "--state", state)).out, /^9 units, 450 kB\n {2}one: 2 tenants/);
  });
});

Deno.test("cache rm removes by key, by model, by last use, or everything", async () => {
  await withState(TWO, async (state) => {
    const key = chainKey(rootOf("ben"), tokensOf(2, PAGE));
    assertEquals(
      (await run("rm", key.slice(0, 20), "--state", state)).out,
      "removed 1 unit, 64.0 kB\n",
    );
    assertEquals(
      (await run("rm", "--older-than", "2d", "--model", "one", "--state", state)).out,
      "removed 0 units, 0 B\n",
    );
    assertEquals(
      (await run("rm", "--older-than", "2d", "--state", state)).out,
      "removed 3 units, 150 kB\n",
    );
    assertEquals(
      (await run("rm", "--model", "one", "--state", state)).out,
      "removed 5 units, 236 kB\n",
    );
    assertEquals((await run("ls", "--state", state)).out, "no units\n");
  });
  await withState(TWO, async (state) => {
    assertEquals((await run("rm", "--all", "--state", state)).out, "removed 9 units, 450 kB\n");
    assertEquals(await chunksLeft(state), 0);
  });
});

Deno.test("cache verify is content with what is whole", async () => {
  await withState(TWO, async (state) => {
    const { code, out } = await run("verify", "--state", state);
    assertEquals({ code, out }, { code: 0, out: "read 9 units: 9 are whole\n" });
  });
});

Deno.test("cache verify removes damaged units and bytes that are nobody's, and says so by its exit code", async () => {
  await withState(TWO, async (state) => {
    const kv = await localMedium(state).open();
    const damaged = chainKey(rootOf("anna"), tokensOf(1, PAGE));
    const { value } = await kv.get(unitKey(damaged));
    const chunk = chunkKey(decodeManifest(value, damaged)!.writeId, 0);
    const bytes = (await kv.get(chunk)).value as Uint8Array;
    bytes[bytes.length - 1] ^= 1;
    await kv.atomic().set(chunk, bytes, {}).commit();
    const lost = chainKey(rootOf("ben"), tokensOf(2, PAGE));
    await kv.atomic().delete(unitKey(lost)).commit();
    kv.close();
    const { code, out } = await run("verify", "--state", state);
    assertEquals(code, 1);
    assertEquals(out.split("\n"), [
      "read 8 units: 7 are whole",
      `removed ${damaged}: it was damaged`,
      "removed the bytes of 1 unit without a manifest",
      "",
    ]);
    assertEquals((await run("verify", "--state", state)).code, 0);
    assertEquals(await chunksLeft(state), 7);
  });
});

Deno.test("cache verify leaves bytes in files alone until it is told where they are", async () => {
  await withState([{ model: "one", tenant: "anna", seed: 1, files: "bytes" }], async (state) => {
    const { code, out } = await run("verify", "--state", state);
    assertEquals(code, 0);
    assertStringIncludes(out, "3 units not read: the bytes are in files, see --cache-files");
    const files = `${state}/bytes`;
    const there = ["--state", state, "--cache-files", files];
    assertEquals((await run("verify", ...there)).out, "read 3 units: 3 are whole\n");
    for await (const { name } of Deno.readDir(files)) {
      for await (const file of Deno.readDir(`${files}/${name}`)) {
        await Deno.truncate(`${files}/${name}/${file.name}`, 10);
      }
    }
    assertEquals((await run("verify", ...there)).code, 1);
    assertEquals((await run("ls", ...there)).out, "no units\n");
  });
});

Deno.test("cache refuses command lines that don't say what to do", async () => {
  await withState([{ model: "one", tenant: "anna", seed: 1 }], async (state) => {
    const refused: [string[], string][] = [
      [["--state", state], "the command is missing, must be ls, stat, rm or verify"],
      [["prune", "--state", state], 'the command is "prune", must be ls, stat, rm or verify'],
      [["ls"], "--state and --kv are missing"],
      [["ls", "--state", `${state}/nothing`], "must be a folder with a kv.sqlite3"],
      [["rm", "--state", state], "what to remove is missing"],
      [["rm", "--all", "--model", "one", "--state", state], "must stand alone"],
      [["rm", "xyz", "--state", state], "must be the first digits of a unit's key"],
      [
        ["rm", "--older-than", "2 weeks", "--state", state],
        "must be a time such as 90m, 12h or 7d",
      ],
    ];
    for (const [args, message] of refused) {
      await assertRejects(() => run(...args), OptionError, message);
    }
    assertStringIncludes((await run("stat", "--state", state)).out, "3 units");
  });
});

Deno.test("cache --help says what its commands do", async () => {
  const { code, out } = await run("--help");
  assertEquals(code, 0);
  assertStringIncludes(out, "verify  reads every unit");
});

async function chunksLeft(state: string): Promise<number> {
  const kv = await localMedium(state).open();
  const session = { kv, step: <T>(call: Promise<T>) => call };
  let count = 0;
  for await (const _ of listAll(session, { prefix: CHUNKS, batchSize: 100 })) count++;
  kv.close();
  return count;
}
