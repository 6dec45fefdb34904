/** The sets that there are: their files, shots and limits, and how rows become problems. */

import { FormatError } from "../errors.ts";
import { quoted } from "../formats/byte_source.ts";
import { chanceOf, choiceItem, choiceShot } from "./choices.ts";
import { MATH_FORM, mathItem, mathShot } from "./math.ts";
import { DataRow, readRows } from "./rows.ts";
import type { ChoiceItem, EvalItem, EvalSet, GenerationItem, PromptForm, Shot } from "./types.ts";
import { gsm8kItem, gsm8kShot, QUESTION_FORM, svampItem } from "./word_problems.ts";

/** What is known of a set before its files are read. */
export interface SetFacts {
  /** The file's usual name; undefined where it is always given. */
  readonly data?: string;
  readonly shotsFile?: string;
  /** Shots where nothing is said. */
  readonly shots: number;
  /** Tokens of an answer at most where nothing is said: raw, and in a conversation, where thinking counts. */
  readonly maxTokens: number;
  readonly chatTokens: number;
}

interface SetReader extends SetFacts {
  readonly form: PromptForm;
  readonly item: (row: DataRow) => EvalItem;
  readonly shot: (row: DataRow) => Shot;
}

/** Contexts of choices are rendered already. */
const CHOICE_FORM: PromptForm = Object.freeze({ render: (context: string) => context, stop: [] });

const WORDS = { shots: 5, maxTokens: 256, chatTokens: 1024, form: QUESTION_FORM };
const CHOICES = {
  ...{ shots: 0, maxTokens: 0, chatTokens: 0, form: CHOICE_FORM },
  ...{ item: choiceItem, shot: choiceShot },
};

const SETS = Object.freeze({
  gsm8k: {
    ...{ ...WORDS, data: "gsm8k_test.dev80.jsonl", shotsFile: "gsm8k_train.jsonl" },
    ...{ item: gsm8kItem, shot: gsm8kShot },
  },
  // Its own training half has equations in place of words, so the shots are GSM8K's.
  svamp: {
    ...{ ...WORDS, data: "svamp_test.dev80.jsonl", shotsFile: "gsm8k_train.jsonl" },
    ...{ item: svampItem, shot: gsm8kShot },
  },
  "math-500": {
    ...{ data: "math500_test.dev80.jsonl", shotsFile: "fewshot_minerva_math_4.json", shots: 4 },
    ...{ maxTokens: 1024, chatTokens: 4096, form: MATH_FORM, item: mathItem, shot: mathShot },
  },
  "arc-easy": { ...CHOICES, data: "arc_easy_test.dev80.jsonl", shotsFile: "arc_easy_train.jsonl" },
  "arc-challenge": {
    ...{ ...CHOICES, data: "arc_challenge_test.dev80.jsonl" },
    shotsFile: "arc_challenge_train.jsonl",
  },
  choices: CHOICES,
}) satisfies Readonly<Record<string, SetReader>>;

export type SetName = keyof typeof SETS;

export const SET_NAMES = Object.keys(SETS) as readonly SetName[];

export function setFacts(name: SetName): SetFacts {
  return SETS[name];
}

/** A file that was read: its name without folders, and its text. */
export interface DataFile {
  readonly name: string;
  readonly text: string;
}

export interface SetFiles {
  readonly data: DataFile;
  /** Where shots come from, and how many of its first rows they are; none where absent. */
  readonly shots?: DataFile & { readonly count: number };
  /** Problems at most, the first ones of the file. */
  readonly limit?: number;
}

/** Throws FormatError naming the file and the line of a row that is not one of this set. */
export function readSet(name: SetName, { data, shots, limit }: SetFiles): EvalSet {
  const reader: SetReader = SETS[name];
  const items = readRows(data.text, data.name).slice(0, limit).map(reader.item);
  return {
    name,
    data: data.name,
    items,
    shots: shots === undefined ? [] : readShots(shots, reader.shot),
    form: reader.form,
    chance: items[0].kind === "choice" ? chanceOf(items as ChoiceItem[]) : 0,
  };
}

/** Held-out problems as a set. */
export function heldoutSet(name: string, items: readonly GenerationItem[]): EvalSet {
  const set = { name: "heldout", data: name, items, shots: [], form: QUESTION_FORM, chance: 0 };
  return { ...set, chatOnly: true };
}

/** The first rows of JSON lines, or of `samples` of one JSON object. */
function readShots(
  { name, text, count }: DataFile & { count: number },
  shot: (row: DataRow) => Shot,
): Shot[] {
  const rows = samplesOf(text)?.map((fields, i) => new DataRow(fields, { name, line: i + 1 })) ??
    readRows(text, name);
  if (rows.length >= count) return rows.slice(0, count).map(shot);
  throw FormatError.of(`read ${quoted(name)}`, "the number of its rows", rows.length, `${count}`);
}

function samplesOf(text: string): Readonly<Record<string, unknown>>[] | undefined {
  try {
    const { samples } = JSON.parse(text);
    return Array.isArray(samples) ? samples : undefined;
  } catch {
    return undefined;
  }
}
