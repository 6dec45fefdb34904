/** Flags of the commands that keep prefixes beyond the process. */

import type { CacheOptions } from "../cache/types.ts";
import { OptionError } from "../errors.ts";
import {
  choiceFlag,
  type Flag,
  type FlagValues,
  integerFlag,
  sizeFlag,
  textFlag,
} from "./flags.ts";

/** Bytes that the kept prefixes may take where nothing is said. */
export const DEFAULT_QUOTA_BYTES = 4 * 2 ** 30;

const DEFAULT_EXPIRY_DAYS = 30;
const DAY_MS = 24 * 60 * 60 * 1000;

/** A user and a password would be shown in each warning; what a server asks for is the token. */
const KV_SERVER: Flag<string | undefined> = {
  ...textFlag({
    help: "a KV Connect server instead of the folder; DENO_KV_ACCESS_TOKEN is its token",
    placeholder: "URL",
    must: "an http(s) URL without user and password",
  }),
  parse(text) {
    const { protocol = "", username, password } = URL.parse(text) ?? {};
    return /^https?:$/.test(protocol) && !username && !password ? text : undefined;
  },
};

/** Where the prefixes are. */
export const CACHE_PLACE_FLAGS = {
  state: textFlag({
    help: "a folder for what outlives the process: prompts' prefixes, in a Deno KV database",
    placeholder: "DIR",
    must: "the path of a folder",
  }),
  kv: KV_SERVER,
  "cache-files": textFlag({
    help: "a folder for the prefixes' bytes, where Deno KV shall hold only what describes them",
    placeholder: "DIR",
    must: "the path of a folder",
  }),
};

export const CACHE_FLAGS = {
  ...CACHE_PLACE_FLAGS,
  "prefix-cache": choiceFlag({
    help: "on: in memory, and in --state or --kv where given; memory: in memory only; off: never",
    words: ["on", "memory", "off"],
    fallback: "on",
  }),
  "cache-quota": sizeFlag({
    help: "what all kept prefixes may take",
    shown: "4GiB",
  }),
  "cache-days": integerFlag({
    help: "days after which a prefix that nobody used is dropped",
    min: 1,
    max: 3650,
    fallback: DEFAULT_EXPIRY_DAYS,
  }),
};

/**
 * What these flags say; undefined where nothing outlives the process. Throws OptionError where a folder's
 * path names something else, and where files have no database that describes them.
 */
export function cacheOptions(values: FlagValues<typeof CACHE_FLAGS>): CacheOptions | undefined {
  const { state, kv: url, "cache-files": files } = values;
  checkFolder("state", state);
  checkFolder("cache-files", files);
  const isKept = state !== undefined || url !== undefined;
  if (files !== undefined && !isKept) {
    throw new OptionError(
      `cannot start: --cache-files is given alone, must come with --state or --kv, where Deno KV holds ` +
        "what describes the files",
    );
  }
  if (values["prefix-cache"] !== "on" || !isKept) return undefined;
  return {
    ...(url === undefined ? { state } : { url }),
    files,
    quotaBytes: values["cache-quota"] ?? DEFAULT_QUOTA_BYTES,
    expiryMs: values["cache-days"] * DAY_MS,
  };
}

/** Throws OptionError where the path names something that is no folder. */
function checkFolder(flag: string, path: string | undefined): void {
  if (path === undefined) return;
  let isFolder: boolean;
  try {
    isFolder = Deno.statSync(path).isDirectory;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw new OptionError(`cannot start: --${flag} ${JSON.stringify(path)} cannot be looked at`);
  }
  if (!isFolder) {
    throw new OptionError(`cannot start: --${flag} is ${JSON.stringify(path)}, must be a folder`);
  }
}
