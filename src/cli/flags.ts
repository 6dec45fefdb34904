/**
 * Command-line flags with environment twins. A command declares one table; parsing, the variables'
 * names (`--max-tokens` is `SLUICE_MAX_TOKENS`), refusals and `--help` follow from it. A flag wins
 * over its variable.
 */

import { OptionError } from "../errors.ts";

/** How a flag's text becomes a value. `parse` returns undefined for text that is not right. */
export interface Flag<T> {
  readonly help: string;
  /** Stands for the value in the help text; absent for switches. */
  readonly placeholder?: string;
  /** What the value must be, to complete "must be ...". */
  readonly must: string;
  readonly fallback: T;
  /** The default as the help text shows it; undefined: none is shown. */
  readonly shown?: string;
  /** The value's text where another flag or nothing follows; undefined: there must be a value. */
  readonly bare?: string;
  /** For tests: taken as any other flag, and not in the help text. */
  readonly hidden?: boolean;
  readonly parse: (text: string) => T | undefined;
}

// deno-lint-ignore no-explicit-any
export type FlagTable = { readonly [name: string]: Flag<any> };

export type FlagValues<Table extends FlagTable> = {
  readonly [Name in keyof Table]: Table[Name] extends Flag<infer T> ? T : never;
};

export interface Parsed<Table extends FlagTable> {
  readonly values: FlagValues<Table>;
  readonly positionals: readonly string[];
  /** `--help` or `-h` was given. */
  readonly help: boolean;
}

/** A text of any kind, at least one character long. */
export function textFlag(
  options: { help: string; placeholder?: string; must?: string },
): Flag<string | undefined> {
  return {
    help: options.help,
    placeholder: options.placeholder ?? "TEXT",
    must: options.must ?? "a text that is not empty",
    fallback: undefined,
    parse: (text) => text === "" ? undefined : text,
  };
}

interface NumberFlagOptions<T> {
  readonly help: string;
  readonly placeholder?: string;
  readonly min: number;
  readonly max: number;
  readonly fallback: T;
  readonly shown?: string;
}

/** A whole number of [min, max]. */
export function integerFlag<T extends number | undefined>(
  options: NumberFlagOptions<T>,
): Flag<number | T> {
  const { min, max } = options;
  return {
    help: options.help,
    placeholder: options.placeholder ?? "N",
    must: `a whole number from ${min} to ${max}`,
    fallback: options.fallback,
    shown: options.shown ?? options.fallback?.toString(),
    parse: (text) => {
      const value = /^-?\d{1,16}$/.test(text) ? Number(text) : NaN;
      return value >= min && value <= max ? value : undefined;
    },
  };
}

/** A decimal number of [min, max]. */
export function numberFlag(options: NumberFlagOptions<number>): Flag<number> {
  const { min, max } = options;
  return {
    help: options.help,
    placeholder: options.placeholder ?? "X",
    must: `a number from ${min} to ${max}`,
    fallback: options.fallback,
    shown: options.shown ?? String(options.fallback),
    parse: (text) => {
      const value = /^-?\d{1,15}(\.\d{1,15})?$/.test(text) ? Number(text) : NaN;
      return value >= min && value <= max ? value : undefined;
    },
  };
}

/** One of a few words. */
export function choiceFlag<const Word extends string>(
  options: { help: string; words: readonly Word[]; fallback: NoInfer<Word> },
): Flag<Word> {
  return {
    help: options.help,
    placeholder: options.words.join("|"),
    must: `one of ${options.words.join(", ")}`,
    fallback: options.fallback,
    shown: options.fallback,
    parse: (text) => options.words.find((word) => word === text),
  };
}

/** Words separated by commas. */
export function listFlag(
  options: { help: string; placeholder: string; must: string; accepts: (word: string) => boolean },
): Flag<readonly string[]> {
  return {
    help: options.help,
    placeholder: options.placeholder,
    must: options.must,
    fallback: [],
    parse: (text) => {
      const words = text.split(",").map((word) => word.trim());
      return words.every((word) => word !== "" && options.accepts(word)) ? words : undefined;
    },
  };
}

/** Bytes of a unit; decimal and binary ones are both in use and not the same. */
const UNIT_BYTES: Readonly<Record<string, number>> = Object.freeze({
  "": 1,
  B: 1,
  kB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
});

/** `2GiB`, `512 MiB`, `1.5GB` or a number of bytes, as whole bytes; undefined for anything else. */
export function parseSize(text: string): number | undefined {
  const match = /^(\d{1,15}(?:\.\d{1,6})?) ?([A-Za-z]*)$/.exec(text);
  if (match === null || !Object.hasOwn(UNIT_BYTES, match[2])) return undefined;
  const bytes = Math.round(Number(match[1]) * UNIT_BYTES[match[2]]);
  return bytes >= 1 && Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** A number of bytes, with a unit or without. */
export function sizeFlag(options: { help: string; shown?: string }): Flag<number | undefined> {
  return {
    ...options,
    placeholder: "SIZE",
    must: "a size such as 512MiB, 2GiB or 1.5GB",
    fallback: undefined,
    parse: parseSize,
  };
}

/** Percentages above 0 and up to 100, separated by commas, as shares of 1. */
export function sharesFlag(
  { help, fallback }: { help: string; fallback: readonly number[] },
): Flag<readonly number[]> {
  return {
    help,
    placeholder: "10%,25%,...",
    must: "a list of percentages above 0 and up to 100, such as 10%,25%",
    fallback,
    shown: fallback.map((share) => `${share * 100}%`).join(","),
    parse: (text) => {
      const shares = text.split(",").map((word) => {
        const match = /^(\d{1,3}(?:\.\d{1,3})?)%$/.exec(word.trim());
        return match === null ? NaN : Number(match[1]) / 100;
      });
      return shares.every((share) => share > 0 && share <= 1) ? shares : undefined;
    },
  };
}

/** On when named; `--flag=false` and `SLUICE_FLAG=0` turn it off. */
export function switchFlag(options: { help: string }): Flag<boolean> {
  return {
    help: options.help,
    must: "true, false, 1 or 0",
    fallback: false,
    parse: (text) =>
      text === "true" || text === "1" ? true : text === "false" || text === "0" ? false : undefined,
  };
}

/** `max-tokens` -> `SLUICE_MAX_TOKENS`. */
export function variableName(flag: string): string {
  return `SLUICE_${flag.toUpperCase().replaceAll("-", "_")}`;
}

/** Quotes what was given, shortened, so that a message stays one line. */
function quote(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 57)}...` : text);
}

export interface ParseOptions {
  readonly command: string;
  readonly args: readonly string[];
  /** Reads an environment variable. */
  readonly env: (name: string) => string | undefined;
  /** How many words without a flag the command takes; 0 where absent. */
  readonly maxPositionals?: number;
}

/** Reads the command line over the environment. Throws OptionError naming what is wrong. */
export function parseFlags<Table extends FlagTable>(
  table: Table,
  { command, args, env, maxPositionals = 0 }: ParseOptions,
): Parsed<Table> {
  const values = new Map<string, unknown>();
  const positionals: string[] = [];
  const refuse = (what: string, given: string, must: string): never => {
    throw new OptionError(`cannot ${command}: ${what} is ${quote(given)}, must be ${must}`);
  };
  if (args.some((arg) => arg === "--help" || arg === "-h")) {
    const defaults = Object.entries(table).map(([name, flag]) => [name, flag.fallback]);
    return { values: Object.fromEntries(defaults), positionals, help: true };
  }
  for (let i = 0; i < args.length; i++) {
    const arg = args[i];
    if (!arg.startsWith("-") || arg === "-") {
      positionals.push(arg);
      continue;
    }
    const equals = arg.indexOf("=");
    const name = arg.slice(arg.startsWith("--") ? 2 : 1, equals < 0 ? undefined : equals);
    const flag = arg.startsWith("--") && Object.hasOwn(table, name) ? table[name] : undefined;
    if (flag === undefined) {
      const known = shownFlags(table).map(([known]) => `--${known}`).join(" ");
      throw new OptionError(`cannot ${command}: there is no flag ${quote(arg)}, only ${known}`);
    }
    if (values.has(name)) throw new OptionError(`cannot ${command}: --${name} is given twice`);
    let given: string;
    if (equals >= 0) given = arg.slice(equals + 1);
    else if (flag.placeholder === undefined) given = "true";
    else if (flag.bare !== undefined && !/^[^-]/.test(args[i + 1] ?? "")) given = flag.bare;
    else if (i + 1 < args.length) given = args[++i];
    else throw new OptionError(`cannot ${command}: --${name} has no value, must be ${flag.must}`);
    values.set(name, flag.parse(given) ?? refuse(`--${name}`, given, flag.must));
  }
  if (positionals.length > maxPositionals) {
    throw new OptionError(
      `cannot ${command}: ${quote(positionals[maxPositionals])} belongs to no flag` +
        (maxPositionals === 0 ? "" : `, at most ${maxPositionals} such word is taken`),
    );
  }
  for (const [name, flag] of Object.entries(table)) {
    if (values.has(name)) continue;
    const given = env(variableName(name));
    if (given === undefined || given === "") values.set(name, flag.fallback);
    else values.set(name, flag.parse(given) ?? refuse(variableName(name), given, flag.must));
  }
  return {
    values: Object.fromEntries(values) as FlagValues<Table>,
    positionals,
    help: false,
  };
}

function shownFlags(table: FlagTable): [string, FlagTable[string]][] {
  return Object.entries(table).filter(([, flag]) => flag.hidden !== true);
}

/** The text that `--help` prints. */
export function helpText(
  table: FlagTable,
  { usage, about }: { usage: string; about: string },
): string {
  const rows = shownFlags(table).map(([name, flag]) => {
    const left = flag.placeholder === undefined ? `--${name}` : `--${name} ${flag.placeholder}`;
    const shown = flag.shown === undefined ? "" : ` (default ${flag.shown})`;
    return [left, `${flag.help}${shown}`] as const;
  });
  const width = Math.min(34, Math.max(...rows.map(([left]) => left.length)));
  const lines = rows.map(([left, right]) =>
    left.length > width
      ? `  ${left}\n  ${" ".repeat(width)}  ${right}`
      : `  ${left.padEnd(width)}  ${right}`
  );
  return [
    `Usage: ${usage}`,
    "",
    about,
    "",
    ...lines,
    `  ${"--help".padEnd(width)}  this text`,
    "",
    "Every flag can be given as an environment variable: --max-tokens is SLUICE_MAX_TOKENS.",
  ].join("\n");
}
