/** Recipes of corpora: `recipes/data/NAME.json` read and checked. */

import { OptionError } from "../../../errors.ts";
import { FAMILIES, familyNamed } from "../families/mod.ts";
import type { ContaminationOptions } from "../filters/contamination.ts";
import type { DuplicateOptions } from "../filters/duplicates.ts";
import type { FilterOptions } from "../filters/mod.ts";
import type { Family } from "../problem.ts";
import { RECORD_FORMATS } from "../readers/records.ts";
import { type Notation, NOTATIONS } from "../working.ts";
import { type Wording, WORDINGS } from "../draws.ts";
import { Fields } from "./fields.ts";
import { NO_FILTERS, readFilters } from "./filters.ts";

/** On which side of the split a source's rows may come out. */
export type Side = "both" | "train" | "heldout";

interface SourceBase {
  readonly name: string;
  readonly filters: FilterOptions;
  readonly side: Side;
}

export interface GeneratedSource extends SourceBase {
  readonly kind: "generated";
  readonly family: Family;
  readonly levels: readonly [number, number];
  readonly notation: Notation;
  readonly wording: Wording;
  /** Rows for training; what is held out comes on top. */
  readonly count: number;
}

export interface FileSource extends SourceBase {
  readonly kind: "files";
  readonly format: string;
  readonly paths: readonly string[];
  /** Rows for training at most; null: all there are. */
  readonly count: number | null;
  readonly minReward: number;
  readonly textField: string;
  readonly pieceCharacters: number;
}

export type Source = GeneratedSource | FileSource;

export interface Evaluation {
  readonly format: string;
  readonly paths: readonly string[];
  readonly textField: string;
}

export interface TokenizerRecipe {
  /** Ids, special tokens included. */
  readonly vocabulary: number;
  /** Whether each digit is a token of its own, or runs of up to three are merged. */
  readonly digits: "single" | "triples";
  /** Pairs that occur less often are not merged. */
  readonly minCount: number;
  /** Training rows that are read for it. */
  readonly rows: number;
  /** What the tokenizer's file says the model can read. */
  readonly contextLength: number;
}

/** A tokenizer that is there already, as later phases need it. */
export interface GivenTokenizer {
  /** A folder with tokenizer.json and tokenizer_config.json. */
  readonly from: string;
}

export interface PackRecipe {
  /** Tokens of a sequence. */
  readonly length: number;
  /** Sequences in a file. */
  readonly sequences: number;
}

export interface Recipe {
  readonly name: string;
  readonly seed: number;
  readonly sources: readonly Source[];
  readonly evaluations: readonly Evaluation[];
  readonly contamination: ContaminationOptions;
  readonly duplicates: DuplicateOptions;
  readonly split: { readonly heldout: number; readonly limit: number };
  readonly shardRows: number;
  readonly tokenizer: TokenizerRecipe | GivenTokenizer | null;
  readonly pack: PackRecipe | null;
}

const KEYS = [
  "name",
  "about",
  "seed",
  "sources",
  "filters",
  "duplicates",
  "evaluations",
  "contamination",
  "split",
  "shardRows",
  "tokenizer",
  "pack",
];

const MAX_ROWS = 1_000_000_000;

const TOKENIZER_KEYS = ["from", "vocabulary", "digits", "minCount", "rows", "contextLength"];

/** Text formats beside those of records. */
const OTHER_FORMATS = ["text", "warc"];
const FORMATS = [...Object.keys(RECORD_FORMATS), ...OTHER_FORMATS];

export interface RecipeOptions {
  /** The recipe's file, for messages. */
  readonly file: string;
  /** Where a path of the recipe leads; recipes give them relative to their own folder. */
  readonly resolve: (path: string) => string;
}

/** Reads a recipe's text. OptionError names the first field that is wrong. */
export function readRecipe(text: string, options: RecipeOptions): Recipe {
  const action = `read the recipe ${JSON.stringify(options.file)}`;
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new OptionError(`cannot ${action}: it is not JSON (${(error as Error).message})`);
  }
  const fields = new Fields(json, { action, path: "", keys: KEYS });
  if (fields.has("about")) fields.text("about");
  const base = readFilters(fields, NO_FILTERS);
  const sources = fields.list("sources").map(({ value, path }) =>
    readSource(value, { action, path, base, resolve: options.resolve })
  );
  const names = new Set<string>();
  for (const { name } of sources) {
    if (names.has(name)) {
      throw new OptionError(`cannot ${action}: two sources are named ${JSON.stringify(name)}`);
    }
    names.add(name);
  }
  const split = fields.object("split", ["heldout", "limit"]);
  if (fields.has("pack") && !fields.has("tokenizer")) {
    fields.refuse("tokenizer", "given where there is pack, which needs one");
  }
  return {
    name: fields.text("name"),
    seed: fields.integer("seed", { min: 0, max: Number.MAX_SAFE_INTEGER }),
    sources,
    evaluations: fields.has("evaluations")
      ? fields.list("evaluations").map(({ value, path }) =>
        readEvaluation(value, { action, path, resolve: options.resolve })
      )
      : [],
    contamination: readContamination(fields),
    duplicates: readDuplicates(fields),
    split: {
      heldout: split.number("heldout", { min: 0, max: 0.5, fallback: 0.05 }),
      limit: split.integer("limit", { min: 0, max: MAX_ROWS, fallback: 1000 }),
    },
    shardRows: fields.integer("shardRows", { min: 1, max: MAX_ROWS, fallback: 50_000 }),
    tokenizer: fields.has("tokenizer") ? readTokenizer(fields, options.resolve) : null,
    pack: fields.has("pack") ? readPack(fields) : null,
  };
}

interface Place {
  readonly action: string;
  readonly path: string;
  readonly resolve: (path: string) => string;
}

const SOURCE_KEYS = ["name", "generate", "read", "count", "filters", "side"];
const GENERATED_KEYS = ["levels", "notation", "wording"];
const FILE_KEYS = ["files", "minReward", "textField", "pieceCharacters", "licence"];

function readSource(value: unknown, place: Place & { base: FilterOptions }): Source {
  const isGenerated = (value as Record<string, unknown> | null)?.generate !== undefined;
  const keys = [
    ...SOURCE_KEYS.filter((key) => key !== (isGenerated ? "read" : "generate")),
    ...(isGenerated ? GENERATED_KEYS : FILE_KEYS),
  ];
  const fields = new Fields(value, { ...place, keys });
  const name = fields.text("name");
  if (!/^[\w-]{1,60}$/.test(name)) {
    fields.refuse("name", "letters, digits, - and _, at most 60 of them");
  }
  const side = fields.choice("side", { words: ["both", "train", "heldout"], fallback: "both" });
  return isGenerated
    ? readGenerated(fields, { name, side, filters: readFilters(fields, NO_FILTERS) })
    : readFileSource(fields, {
      name,
      side,
      filters: readFilters(fields, place.base),
      resolve: place.resolve,
    });
}

function readGenerated(fields: Fields, base: SourceBase): GeneratedSource {
  const names = FAMILIES.map(({ name }) => name);
  const family = familyNamed(fields.choice("generate", { words: names }))!;
  return {
    kind: "generated",
    ...base,
    family,
    levels: readLevels(fields, family),
    notation: fields.choice("notation", { words: NOTATIONS, fallback: "columns" }),
    wording: fields.choice("wording", { words: WORDINGS, fallback: "full" }),
    count: fields.integer("count", { min: 1, max: MAX_ROWS }),
  };
}

function readLevels(fields: Fields, family: Family): [number, number] {
  if (!fields.has("levels")) return [1, family.levels];
  const levels = fields.list("levels").map(({ value }) => value);
  const [low, high] = levels as number[];
  const isRight = levels.length === 2 && levels.every(Number.isInteger) && low >= 1 &&
    low <= high && high <= family.levels;
  if (!isRight) {
    fields.refuse("levels", `[lowest, highest] from 1 to ${family.levels} for ${family.name}`);
  }
  return [low, high];
}

function readFileSource(
  fields: Fields,
  options: SourceBase & Pick<Place, "resolve">,
): FileSource {
  const { resolve, ...base } = options;
  if (fields.has("licence")) fields.text("licence");
  return {
    kind: "files",
    ...base,
    ...readFormat(fields, "read"),
    paths: fields.texts("files").map(resolve),
    count: fields.has("count") ? fields.integer("count", { min: 1, max: MAX_ROWS }) : null,
    minReward: fields.number("minReward", { min: -1e9, max: 1e9, fallback: 0.5 }),
    pieceCharacters: fields.integer("pieceCharacters", {
      min: 1,
      max: 10_000_000,
      fallback: 2000,
    }),
  };
}

function readFormat(fields: Fields, key: string): { format: string; textField: string } {
  return {
    format: fields.choice(key, { words: FORMATS }),
    textField: fields.text("textField", { fallback: "text" }),
  };
}

function readEvaluation(value: unknown, place: Place): Evaluation {
  const fields = new Fields(value, { ...place, keys: ["read", "files", "textField"] });
  return { ...readFormat(fields, "read"), paths: fields.texts("files").map(place.resolve) };
}

function readContamination(fields: Fields): ContaminationOptions {
  const inner = fields.object("contamination", ["words", "minWords"]);
  return {
    words: inner.integer("words", { min: 3, max: 100, fallback: 13 }),
    minWords: inner.integer("minWords", { min: 3, max: 100, fallback: 8 }),
  };
}

function readDuplicates(fields: Fields): DuplicateOptions {
  const inner = fields.object("duplicates", ["near", "words", "hashes", "window"]);
  return {
    near: inner.isFalse("near")
      ? null
      : inner.number("near", { min: 0.3, max: 0.99, fallback: 0.8 }),
    words: inner.integer("words", { min: 1, max: 50, fallback: 5 }),
    hashes: inner.integer("hashes", { min: 16, max: 512, fallback: 64 }),
    window: inner.integer("window", { min: 1, max: 5_000_000, fallback: 200_000 }),
  };
}

function readTokenizer(
  fields: Fields,
  resolve: (path: string) => string,
): TokenizerRecipe | GivenTokenizer {
  const given = fields.object("tokenizer", TOKENIZER_KEYS);
  if (given.has("from")) {
    const only = fields.object("tokenizer", ["from"]);
    return { from: resolve(only.text("from")) };
  }
  const inner = given;
  return {
    vocabulary: inner.integer("vocabulary", { min: 264, max: 262_144, fallback: 4096 }),
    digits: inner.choice("digits", { words: ["single", "triples"], fallback: "single" }),
    minCount: inner.integer("minCount", { min: 1, max: 1_000_000, fallback: 2 }),
    rows: inner.integer("rows", { min: 1, max: MAX_ROWS, fallback: 100_000 }),
    contextLength: inner.integer("contextLength", { min: 16, max: 1_000_000, fallback: 2048 }),
  };
}

function readPack(fields: Fields): PackRecipe {
  const inner = fields.object("pack", ["length", "sequences"]);
  return {
    length: inner.integer("length", { min: 8, max: 1_000_000, fallback: 512 }),
    sequences: inner.integer("sequences", { min: 1, max: 1_000_000, fallback: 4096 }),
  };
}
