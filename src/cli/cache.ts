/** `deno task cache`: looks at the prefixes that are kept beyond a process, and tidies them up. */

import { remoteMedium } from "../cache/deno_kv.ts";
import { FilesPlace } from "../cache/files.ts";
import { localDatabaseExists, localMedium } from "../cache/local_database.ts";
import {
  listUnits,
  LOOSE_MS,
  type Places,
  readBytes,
  removeOrphans,
  removeUnit,
  type UnitEntry,
} from "../cache/inventory.ts";
import type { Manifest } from "../cache/codec.ts";
import type { KvSession } from "../cache/kv.ts";
import { KvPlace } from "../cache/places.ts";
import { OptionError } from "../errors.ts";
import { CACHE_PLACE_FLAGS } from "./cache_flags.ts";
import { formatStat, formatUnits, modelsOf } from "./cache_report.ts";
import {
  type Flag,
  type FlagValues,
  helpText,
  parseFlags,
  switchFlag,
  textFlag,
  variableName,
} from "./flags.ts";
import {
  type CommandIo,
  EXIT_FAILURE,
  formatBytes,
  printable,
  processIo,
  runCommand,
  write,
} from "./terminal.ts";

const SPAN_MS: Readonly<Record<string, number>> = Object.freeze({
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
});

/** `90m`, `12h` or `7d`, as milliseconds. */
const OLDER_THAN: Flag<number | undefined> = {
  help: "rm: units that nobody has used for so long",
  placeholder: "TIME",
  must: "a time such as 90m, 12h or 7d",
  fallback: undefined,
  parse(text) {
    const match = /^(\d{1,6})([smhd])$/.exec(text);
    return match === null ? undefined : Number(match[1]) * SPAN_MS[match[2]];
  },
};

const FLAGS = {
  ...CACHE_PLACE_FLAGS,
  all: switchFlag({ help: "rm: everything" }),
  model: textFlag({ help: "rm, ls: units of this model", placeholder: "NAME" }),
  "older-than": OLDER_THAN,
  json: switchFlag({ help: "ls, stat, verify: print one JSON object" }),
};

const PLACE_VARIABLES = new Set(Object.keys(CACHE_PLACE_FLAGS).map(variableName));

type Values = FlagValues<typeof FLAGS>;

const USAGE = "deno task cache ls|stat|rm|verify [KEY] (--state DIR | --kv URL) [flags]";
const ABOUT = `Prefixes that are kept beyond a process.
  ls      units by model and tenant, with their tokens, bytes, age and last use
  stat    how much there is
  rm      removes units: those whose key begins with KEY, --model, --older-than, or --all
  verify  reads every unit, removes what is damaged or nobody's; exit code 1 if there was any`;

/** What a command works on. */
interface Context {
  readonly session: KvSession;
  readonly places: Places;
  readonly values: Values;
  readonly keyStart: string | undefined;
  readonly now: number;
  readonly print: (text: string, json: unknown) => void;
}

const COMMANDS: Readonly<Record<string, (context: Context) => Promise<number>>> = Object.freeze({
  ls,
  stat,
  rm,
  verify,
});

/** Runs the command and returns its exit code. */
export async function main(args: readonly string[], io: CommandIo = processIo()): Promise<number> {
  const { values, positionals, help } = parseFlags(FLAGS, {
    command: "look at the cache",
    args,
    // SLUICE_MODEL is the server's, and nothing is removed because of a variable.
    env: (name) => PLACE_VARIABLES.has(name) ? io.env(name) : undefined,
    maxPositionals: 2,
  });
  if (help) {
    write(io.stdout, `${helpText(FLAGS, { usage: USAGE, about: ABOUT })}\n`);
    return 0;
  }
  const [command, keyStart] = positionals;
  if (command === undefined || !Object.hasOwn(COMMANDS, command)) {
    const is = command === undefined ? "missing" : JSON.stringify(command);
    throw refusal(`the command is ${is}, must be ls, stat, rm or verify`);
  }
  if (keyStart !== undefined && !/^[0-9a-f]{1,64}$/.test(keyStart)) {
    throw refusal(`KEY is ${JSON.stringify(keyStart)}, must be the first digits of a unit's key`);
  }
  const kv = await openMedium(values);
  const places = [new KvPlace(), ...filesPlaces(values)];
  try {
    return await COMMANDS[command]({
      session: { kv, step: (call) => call },
      places: new Map(places.map((place) => [place.name, place])),
      values,
      keyStart,
      now: Date.now(),
      print: (text, json) =>
        write(io.stdout, `${values.json ? JSON.stringify(json) : printable(text)}\n`),
    });
  } finally {
    kv.close();
  }
}

async function openMedium({ state, kv: url }: Values) {
  if (url !== undefined) return await remoteMedium(url).open();
  if (state === undefined) {
    throw refusal("--state and --kv are missing, must be a folder or a server's URL");
  }
  if (!await localDatabaseExists(state)) {
    throw refusal(`--state is ${JSON.stringify(state)}, must be a folder with a kv.sqlite3`);
  }
  return await localMedium(state).open();
}

function filesPlaces({ "cache-files": files }: Values): FilesPlace[] {
  return files === undefined ? [] : [new FilesPlace(files)];
}

async function ls({ session, values, keyStart, now, print }: Context): Promise<number> {
  const units = whole(await selected(session, { model: values.model, keyStart }));
  const models = modelsOf(units);
  print(formatUnits(models, { now }), models);
  return 0;
}

async function stat({ session, now, print }: Context): Promise<number> {
  const entries = await selected(session, {});
  const units = whole(entries);
  const report = {
    models: modelsOf(units).map(({ model, tenants, bytes }) => ({
      model,
      tenants: tenants.length,
      units: tenants.reduce((sum, { units }) => sum + units.length, 0),
      tokens: tenants.reduce((sum, { tokens }) => sum + tokens, 0),
      bytes,
    })),
    units: units.length,
    bytes: bytesOf(entries),
    damaged: entries.length - units.length,
    expired: units.filter(({ expires }) => expires <= now).length,
    lastUse: units.length === 0 ? null : Math.max(...units.map(({ used }) => used)),
  };
  print(formatStat(report, { now }), report);
  return 0;
}

async function rm({ session, places, values, keyStart, now, print }: Context): Promise<number> {
  const { all, model, "older-than": olderThan } = values;
  const isNarrowed = keyStart !== undefined || model !== undefined || olderThan !== undefined;
  if (isNarrowed === all) {
    throw refusal(
      all
        ? "--all is given beside KEY, --model or --older-than, must stand alone"
        : "what to remove is missing, must be KEY, --model, --older-than or --all",
    );
  }
  const usedBefore = olderThan === undefined ? undefined : now - olderThan;
  const entries = await selected(session, { model, keyStart, usedBefore });
  const removed: UnitEntry[] = [];
  for (const entry of entries) {
    if (await removeUnit(session, { entry, places, now })) removed.push(entry);
  }
  const bytes = bytesOf(removed);
  print(`removed ${plural(removed.length, "unit")}, ${formatBytes(bytes)}`, {
    removed: removed.length,
    bytes,
  });
  return 0;
}

async function verify({ session, places, now, print }: Context): Promise<number> {
  const entries = await selected(session, {});
  const damaged: string[] = [];
  let outOfReach = 0;
  for (const entry of entries) {
    const { key, manifest } = entry;
    if (manifest !== null && !places.has(manifest.place)) {
      outOfReach++;
      continue;
    }
    if (manifest !== null && await readBytes(session, { manifest, places }) !== null) continue;
    // Unless it has been replaced or removed since it was listed.
    if (await removeUnit(session, { entry, places, now })) damaged.push(key);
  }
  const orphans = await removeOrphans(session, { places, before: now - LOOSE_MS });
  const read = entries.length - outOfReach;
  const lines = [
    `read ${plural(read, "unit")}: ${read - damaged.length} are whole`,
    ...damaged.map((key) => `removed ${key}: it was damaged`),
    ...(orphans > 0 ? [`removed the bytes of ${plural(orphans, "unit")} without a manifest`] : []),
    ...(outOfReach > 0
      ? [`${plural(outOfReach, "unit")} not read: the bytes are in files, see --cache-files`]
      : []),
  ];
  print(lines.join("\n"), { read, damaged, orphans, outOfReach });
  return damaged.length + orphans > 0 ? EXIT_FAILURE : 0;
}

interface Selection {
  readonly model?: string;
  readonly keyStart?: string;
  /** Milliseconds since 1970. */
  readonly usedBefore?: number;
}

/** The units that all of a selection applies to; damaged manifests where it asks for nothing in them. */
async function selected(
  session: KvSession,
  { model, keyStart = "", usedBefore }: Selection,
): Promise<UnitEntry[]> {
  const entries: UnitEntry[] = [];
  for await (const entry of listUnits(session)) {
    const { key, manifest } = entry;
    const isModel = model === undefined || manifest?.model === model;
    const isOld = usedBefore === undefined || (manifest !== null && manifest.used < usedBefore);
    if (key.startsWith(keyStart) && isModel && isOld) entries.push(entry);
  }
  return entries;
}

function whole(entries: readonly UnitEntry[]): Manifest[] {
  return entries.flatMap(({ manifest }) => manifest ?? []);
}

function bytesOf(entries: readonly UnitEntry[]): number {
  return whole(entries).reduce((sum, { bytes }) => sum + bytes, 0);
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function refusal(what: string): OptionError {
  return new OptionError(`cannot look at the cache: ${what}`);
}

if (import.meta.main) await runCommand(() => main(Deno.args));
