/** Opens the store that options describe. */

import { remoteMedium } from "./deno_kv.ts";
import type { Faults } from "../faults.ts";
import { withFaults } from "./faults.ts";
import { FilesPlace } from "./files.ts";
import { localMedium } from "./local_database.ts";
import type { CacheOptions } from "./types.ts";
import { UnitsInKv } from "./units_in_kv.ts";

export interface OpenStoreOptions extends CacheOptions {
  /** The model's name for lists; what a unit belongs to is in its key. */
  readonly model: string;
  /** For tests: what shall go wrong. */
  readonly faults?: Faults;
}

/** A store over `url`, or else over a database in `state`. It opens in the background. */
export function openStore(
  options: OpenStoreOptions,
  { onWarning }: { onWarning: (message: string) => void },
): UnitsInKv {
  const { state, url, files, model, quotaBytes, expiryMs, faults } = options;
  const medium = url === undefined ? localMedium(state ?? ".") : remoteMedium(url);
  return new UnitsInKv({
    medium: faults === undefined ? medium : withFaults(medium, faults),
    model,
    quotaBytes,
    expiryMs,
    files: files === undefined ? undefined : new FilesPlace(files),
    onWarning,
  });
}
