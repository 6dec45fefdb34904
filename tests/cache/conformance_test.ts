/** The suite over each medium. */

import { remoteMedium } from "../../src/cache/deno_kv.ts";
import { localMedium } from "../../src/cache/local_database.ts";
import { FilesPlace } from "../../src/cache/files.ts";
import { UnitsInKv } from "../../src/cache/units_in_kv.ts";
import { DENOKV, DenokvServer } from "./_denokv.ts";
import { MemoryDatabase } from "./_memory_kv.ts";
import { storeConformance } from "./conformance.ts";

storeConformance({
  name: "a store over a database in memory",
  make: () => {
    const medium = new MemoryDatabase();
    return Promise.resolve({
      open: (options) => new UnitsInKv({ medium, ...options }),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    });
  },
});

storeConformance({
  name: "a store over a local Deno KV",
  make: async () => {
    const folder = await Deno.makeTempDir({ prefix: "sluice-kv-" });
    return {
      open: (options) => new UnitsInKv({ medium: localMedium(`${folder}/state`), ...options }),
      [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
    };
  },
});

storeConformance({
  name: "a store with its bytes in files",
  make: async () => {
    const folder = await Deno.makeTempDir({ prefix: "sluice-files-" });
    const files = new FilesPlace(`${folder}/bytes`);
    return {
      open: (options) =>
        new UnitsInKv({ medium: localMedium(`${folder}/state`), files, ...options }),
      [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
    };
  },
});

storeConformance({
  name: "a store over a denokv server",
  skip: DENOKV.missing,
  make: async () => {
    const server = await DenokvServer.start();
    return {
      open: (options) => new UnitsInKv({ medium: remoteMedium(server.url), ...options }),
      [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
    };
  },
});
