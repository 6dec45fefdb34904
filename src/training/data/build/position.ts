/** How far a corpus has been made: written down now and then, and read on resuming. */

import { FormatError, OptionError } from "../../../errors.ts";
import type { Position } from "../readers/files.ts";
import { type OutputFolder, writeText } from "./folder.ts";
import type { ShardState } from "./shards.ts";

export const POSITION_FILE = "position.json";

/** What is known of a source so far. */
export interface SourceState {
  position: Position;
  /** Rows read, and why those are missing that did not come out. */
  read: number;
  dropped: Record<string, number>;
  train: number;
  heldout: number;
  /** Characters of the rows that came out. */
  characters: number;
  /** No rows are left. */
  ended: boolean;
}

export interface BuildPosition {
  readonly sources: readonly SourceState[];
  readonly shards: { readonly train: ShardState; readonly heldout: ShardState };
  /** Fingerprints that the search for duplicates has written. */
  readonly fingerprints: number;
}

const VERSION = 1;

export function writePosition(
  folder: OutputFolder,
  options: { recipe: string; position: BuildPosition },
): void {
  const { recipe, position } = options;
  const text = JSON.stringify({ version: VERSION, recipe, ...position });
  writeText(folder, { name: POSITION_FILE, text });
}

/**
 * The position in a folder, or null where nothing has been made there. OptionError where it belongs to
 * another recipe or other input files, FormatError where it is damaged.
 */
export function readPosition(folder: OutputFolder, recipe: string): BuildPosition | null {
  const text = folder.readText(POSITION_FILE);
  if (text === null) return null;
  let json: { version?: unknown; recipe?: unknown } & BuildPosition;
  try {
    json = JSON.parse(text);
  } catch {
    throw FormatError.of("resume", POSITION_FILE, "not JSON", "as it was written");
  }
  if (json.version !== VERSION) {
    throw FormatError.of("resume", `the version of ${POSITION_FILE}`, json.version, `${VERSION}`);
  }
  if (json.recipe !== recipe) {
    throw new OptionError(
      "cannot resume: the folder was begun with another recipe or other input files, " +
        "must be the same ones",
    );
  }
  return json;
}
