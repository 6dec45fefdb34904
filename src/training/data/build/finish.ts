/** The end of a build: the report, and the manifest that says that the corpus is whole. */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { OptionError } from "../../../errors.ts";
import { linesOf } from "../readers/lines.ts";
import type { Recipe } from "../recipe/recipe.ts";
import { type OutputFolder, writeText } from "./folder.ts";
import { MEMORY_FILE } from "./memory.ts";
import { POSITION_FILE, type SourceState } from "./position.ts";
import { shardNames } from "./shards.ts";
import { taken } from "./sources.ts";

export const MANIFEST_FILE = "manifest.json";
export const REPORT_FILE = "report.json";

export interface ShardEntry {
  readonly name: string;
  readonly rows: number;
  readonly bytes: number;
  readonly sha256: string;
}

/** What `manifest.json` holds. */
export interface Manifest {
  readonly version: number;
  readonly recipe: string;
  readonly seed: number;
  /** Stands for the recipe and the content of its input files. */
  readonly fingerprint: string;
  readonly train: readonly ShardEntry[];
  readonly heldout: readonly ShardEntry[];
}

/** Rows in, rows out and why not, for one source or all of them. */
export interface Tally {
  readonly read: number;
  readonly train: number;
  readonly heldout: number;
  readonly dropped: Readonly<Record<string, number>>;
  readonly characters: number;
}

/** What `report.json` holds. */
export interface Report {
  readonly recipe: string;
  readonly seed: number;
  readonly total: Tally;
  readonly sources: readonly (Tally & { readonly name: string; readonly note?: string })[];
}

/** Whether the folder holds the whole corpus; OptionError where it holds another one. */
export function isFinished(folder: OutputFolder, fingerprint: string): boolean {
  const text = folder.readText(MANIFEST_FILE);
  if (text === null) return false;
  const manifest: Manifest = JSON.parse(text);
  if (manifest.fingerprint !== fingerprint) {
    throw new OptionError(
      "cannot resume: the folder holds a corpus of another recipe or of other input files, " +
        "must be of the same ones",
    );
  }
  return true;
}

export function readReport(folder: OutputFolder): Report {
  return JSON.parse(folder.readText(REPORT_FILE)!);
}

export async function finishBuild(
  folder: OutputFolder,
  options: { recipe: Recipe; fingerprint: string; sources: readonly SourceState[] },
): Promise<void> {
  const { recipe } = options;
  const entries = async (side: string) => {
    const list: ShardEntry[] = [];
    for (const name of shardNames(folder.names(), side)) list.push(await entryOf(folder, name));
    return list;
  };
  const manifest: Manifest = {
    version: 1,
    recipe: recipe.name,
    seed: recipe.seed,
    fingerprint: options.fingerprint,
    train: await entries("train"),
    heldout: await entries("heldout"),
  };
  writeText(folder, { name: REPORT_FILE, text: pretty(reportOf(recipe, options.sources)) });
  writeText(folder, { name: MANIFEST_FILE, text: pretty(manifest) });
  removeWorkFiles(folder);
}

/** Removes what only an unfinished build needs. */
export function removeWorkFiles(folder: OutputFolder): void {
  for (const name of [POSITION_FILE, MEMORY_FILE]) {
    if (folder.names().includes(name)) folder.remove(name);
  }
}

function pretty(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

async function entryOf(folder: OutputFolder, name: string): Promise<ShardEntry> {
  const hash = sha256.create();
  let bytes = 0;
  const counted = (await folder.stream(name)).pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        hash.update(chunk);
        bytes += chunk.length;
        controller.enqueue(chunk);
      },
    }),
  );
  let rows = 0;
  for await (const _ of linesOf(counted)) rows++;
  return { name, rows, bytes, sha256: bytesToHex(hash.digest()) };
}

function reportOf(recipe: Recipe, states: readonly SourceState[]): Report {
  const sources = recipe.sources.map((source, i) => {
    const { read, train, heldout, characters } = states[i];
    const dropped = sorted(states[i].dropped);
    const rows = taken(source, states[i]);
    const isShort = source.count !== null && rows < source.count;
    const note = isShort ? `ended after ${rows} of ${source.count} rows` : undefined;
    return { name: source.name, read, train, heldout, dropped, characters, ...(note && { note }) };
  });
  const sum = (key: "read" | "train" | "heldout" | "characters") =>
    sources.reduce((total, source) => total + source[key], 0);
  const dropped: Record<string, number> = {};
  for (const source of sources) {
    for (const [reason, count] of Object.entries(source.dropped)) {
      dropped[reason] = (dropped[reason] ?? 0) + count;
    }
  }
  return {
    recipe: recipe.name,
    seed: recipe.seed,
    total: {
      read: sum("read"),
      train: sum("train"),
      heldout: sum("heldout"),
      dropped: sorted(dropped),
      characters: sum("characters"),
    },
    sources,
  };
}

/** By name, so that the same counts are the same text. */
function sorted(counts: Readonly<Record<string, number>>): Record<string, number> {
  return Object.fromEntries(Object.entries(counts).sort(([a], [b]) => a < b ? -1 : 1));
}
