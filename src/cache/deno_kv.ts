/** Opens databases of Deno KV: those of the runtime, or the npm package's where the runtime isn't Deno. */

import type { Kv, KvMedium } from "./kv.ts";

/** A KV Connect server; the token is the environment's DENO_KV_ACCESS_TOKEN. */
export function remoteMedium(url: string): KvMedium {
  return {
    open: () => openKv(url),
    setAside: () => Promise.resolve(null),
    isThere: () => Promise.resolve(true),
  };
}

/** Opens a file or a URL. */
export async function openKv(place: string): Promise<Kv> {
  const { openKv } = "Deno" in globalThis ? Deno : await import("@deno/kv");
  return await openKv(place) as unknown as Kv;
}
