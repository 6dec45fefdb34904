/** The sets of `deno task eval`, from the files that flags name. */

import { OptionError } from "../errors.ts";
import { heldoutItem } from "../eval/heldout.ts";
import {
  type DataFile,
  heldoutSet,
  readSet,
  SET_NAMES,
  type SetFacts,
  setFacts,
  type SetName,
} from "../eval/sets.ts";
import type { EvalSet, GenerationItem } from "../eval/types.ts";
import { baseName } from "../formats/byte_source.ts";
import { corpusRows } from "../training/data/corpus.ts";
import type { Row } from "../training/data/rows.ts";
import { chosenRows } from "../training/phases/prompts.ts";
import { openFolder } from "./data_folder.ts";

/** What decides about a set. */
export interface SetFlags {
  readonly set: string | undefined;
  readonly data: string | undefined;
  readonly shared: string | undefined;
  readonly limit: number | undefined;
  readonly shots: number | undefined;
  readonly "shots-data": string | undefined;
  readonly chat: boolean;
}

export const SET_MUST = `one of ${SET_NAMES.join(", ")}, or heldout:FOLDER`;

const HELDOUT = /^heldout:(.+)$/;
/** Thinking and answer, where a corpus's problems are asked. */
const HELDOUT_TOKENS = 512;

/** The set that flags name, with its shots. Throws OptionError for what is missing. */
export async function openSet(values: SetFlags): Promise<{ set: EvalSet; facts: SetFacts }> {
  const { set: name, limit } = values;
  const folder = HELDOUT.exec(name ?? "")?.[1];
  if (folder !== undefined) {
    const facts = { shots: 0, maxTokens: HELDOUT_TOKENS, chatTokens: HELDOUT_TOKENS };
    return { set: await openHeldout(folder, limit), facts };
  }
  if (!(SET_NAMES as readonly (string | undefined)[]).includes(name)) {
    const is = name === undefined ? "missing" : JSON.stringify(name);
    throw new OptionError(`cannot evaluate: --set is ${is}, must be ${SET_MUST}`);
  }
  const facts = setFacts(name as SetName);
  const count = values.chat ? 0 : values.shots ?? facts.shots;
  const data = await readData({ flag: "data", file: facts.data, values });
  const shots = count === 0
    ? undefined
    : { ...await readData({ flag: "shots-data", file: facts.shotsFile, values }), count };
  const files = { data, ...(shots && { shots }), ...(limit !== undefined && { limit }) };
  return { set: readSet(name as SetName, files), facts };
}

async function readData(
  { flag, file, values }: { flag: "data" | "shots-data"; file?: string; values: SetFlags },
): Promise<DataFile> {
  const shared = values.shared !== undefined && file !== undefined
    ? `${values.shared}/data/${file}`
    : undefined;
  const path = values[flag] ?? shared;
  if (path === undefined) {
    throw new OptionError(
      `cannot evaluate: --${flag} is missing, must be a file` +
        (file === undefined ? "" : ", or --shared a folder that has it"),
    );
  }
  try {
    return { name: baseName(path), text: await Deno.readTextFile(path) };
  } catch (error) {
    throw new OptionError(
      `cannot evaluate: ${JSON.stringify(path)} cannot be read (${(error as Error).name}), ` +
        "must be a file",
    );
  }
}

async function openHeldout(path: string, limit = Infinity): Promise<EvalSet> {
  const rows: Row[] = [];
  for await (const row of corpusRows(openFolder(path), { side: "heldout" })) rows.push(row);
  // The choice that training's own evaluations make.
  const items = chosenRows(rows, { limit: Infinity, seed: 1 }).map(heldoutItem)
    .filter((item): item is GenerationItem => item !== null).slice(0, limit);
  if (items.length > 0) return heldoutSet(baseName(path.replace(/[/\\]+$/, "")), items);
  throw new OptionError(
    `cannot evaluate: ${JSON.stringify(path)} holds no problems back, must be a corpus that does`,
  );
}
