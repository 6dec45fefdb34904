/**
 * A process that flips bits in copies of a database and uses each: WHOLE_FILE FOLDER FIRST END. Prints a
 * line of JSON for each copy. A process of its own, since there are bits whose flip ends it: one of
 * 500,000 says of a chunk that it is a 64-bit number, and denokv_proto 0.14.0 panics in `decode_value`.
 */

import { assertEquals } from "@std/assert";
import { localMedium } from "../../src/cache/local_database.ts";
import { UnitsInKv } from "../../src/cache/units_in_kv.ts";
import {
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

export interface FlipResult {
  readonly found: number;
  readonly missed: number;
  readonly isSetAside: boolean;
}

function damage(file: Uint8Array, trial: number): void {
  const flips = [1, 8, 64, 512][trial % 4];
  for (let i = 0; i < flips; i++) {
    file[Math.floor(Math.random() * file.length)] ^= 1 << Math.floor(Math.random() * 8);
  }
  // Structures lie at the beginning of SQLite's pages.
  if (trial % 5 === 0) {
    const page = Math.floor(Math.random() * file.length / 4096) * 4096;
    crypto.getRandomValues(file.subarray(page, page + 16));
  }
}

/** Loads what was there, then saves and loads something else; fails where anything is wrong. */
async function use(state: string): Promise<FlipResult> {
  const warnings: string[] = [];
  const store = new UnitsInKv({
    medium: localMedium(state),
    model: MODEL,
    quotaBytes: 1e9,
    expiryMs: 86_400_000,
    onWarning: (message) => warnings.push(message),
  });
  let [found, missed] = [0, 0];
  for (const tokens of CHAINS) {
    const length = await loadedTokens(store, tokens, PLACE);
    found += length;
    missed += tokens.length - length;
  }
  // Damage may come to light in the first or second of these.
  let stored = 0;
  for (let attempt = 0; attempt < 3 && stored === 0; attempt++) {
    await becomesReady(store);
    await saveChain(store, tokensOf(99, PAGE), PLACE);
    stored = await loadedTokens(store, tokensOf(99, PAGE), PLACE);
  }
  // A bit of the file's header says that it is only to be read.
  const isReadOnly = warnings.some((message) => message.includes("read-only database"));
  assertEquals(stored, isReadOnly ? 0 : PAGE, warnings.join());
  await store.close();
  const names = Array.from(Deno.readDirSync(state), ({ name }) => name);
  const isSetAside = names.some((name) => /^kv\.sqlite3\.damaged-[^.]*Z$/.test(name));
  return { found, missed, isSetAside };
}

const [whole, folder, first, end] = Deno.args;
const file = await Deno.readFile(whole);
for (let trial = Number(first); trial < Number(end); trial++) {
  const state = `${folder}/trial-${trial}`;
  await Deno.mkdir(state);
  const damaged = file.slice();
  damage(damaged, trial);
  await Deno.writeFile(`${state}/kv.sqlite3`, damaged);
  console.log(JSON.stringify(await use(state)));
  await Deno.remove(state, { recursive: true });
}
