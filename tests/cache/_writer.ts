/** A process that writes units to a local database until it is killed: FOLDER SEED. */

import { localMedium } from "../../src/cache/local_database.ts";
import { UnitsInKv } from "../../src/cache/units_in_kv.ts";
import { MODEL, rootOf, saveChain, tokensOf } from "./_units.ts";

const [folder, seed] = Deno.args;
const store = new UnitsInKv({
  medium: localMedium(folder),
  model: MODEL,
  quotaBytes: 20_000_000,
  expiryMs: 86_400_000,
  onWarning: (message) => console.error(message),
});
for (let i = 0;; i++) {
  await saveChain(store, tokensOf(Number(seed) * 50 + i % 50, 150), {
    root: rootOf("somebody"),
    bytesPerToken: 6000,
  });
  if (i === 0) Deno.stdout.writeSync(new Uint8Array([1]));
}
