/** The file of API keys, read at the start and again whenever it has changed. */

import { OptionError } from "../errors.ts";
import { KeyRing, parseKeys } from "../server/api_keys.ts";

/** How often the file is looked at, in milliseconds. */
const CHECK_MS = 2_000;

export interface KeyFile {
  readonly keys: KeyRing;
  /** Reads the file no more. */
  close(): void;
}

export interface KeyFileOptions {
  /** Hears of a changed file that cannot be used: the keys from before stay valid. */
  readonly onError: (error: unknown) => void;
  readonly checkMs?: number;
}

async function textOf(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new OptionError(
      `cannot read the API keys: ${JSON.stringify(path)} is unreadable: ${why}`,
    );
  }
}

/** What changes when a file is written or replaced; undefined where it is missing. */
async function versionOf(path: string): Promise<string | undefined> {
  try {
    const { mtime, size, ino } = await Deno.stat(path);
    return `${mtime?.getTime()}/${size}/${ino}`;
  } catch {
    return undefined;
  }
}

/** Reads the keys, and again after SIGHUP or a change. Throws OptionError where the file is wrong now. */
export async function openKeyFile(path: string, options: KeyFileOptions): Promise<KeyFile> {
  let version = await versionOf(path);
  const keys = new KeyRing(parseKeys(await textOf(path), path));
  const read = async () => {
    try {
      keys.replace(parseKeys(await textOf(path), path));
    } catch (error) {
      options.onError(error);
    }
  };
  const check = async () => {
    const now = await versionOf(path);
    if (now === version) return;
    version = now;
    await read();
  };
  const timer = setInterval(check, options.checkMs ?? CHECK_MS);
  Deno.unrefTimer(timer);
  // Windows knows no SIGHUP of this kind.
  const signals = Deno.build.os !== "windows";
  if (signals) Deno.addSignalListener("SIGHUP", read);
  return {
    keys,
    close: () => {
      clearInterval(timer);
      if (signals) Deno.removeSignalListener("SIGHUP", read);
    },
  };
}
