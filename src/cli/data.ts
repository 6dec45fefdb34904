/**
 * `deno task data`: makes a corpus as a recipe says, with its tokenizer and its packed sequences where the
 * recipe asks for them. `deno task data show FAMILY` prints generated problems.
 */

import { loadChatTemplate } from "../chat/mod.ts";
import { OptionError } from "../errors.ts";
import { loadTokenizer } from "../tokenizer/mod.ts";
import { buildCorpus } from "../training/data/build/build.ts";
import { readReport } from "../training/data/build/finish.ts";
import type { OutputFolder } from "../training/data/build/folder.ts";
import { corpusRows, readManifest } from "../training/data/corpus.ts";
import { type Wording, WORDINGS } from "../training/data/draws.ts";
import { FAMILIES, familyNamed, problemAt } from "../training/data/families/mod.ts";
import { SampleEncoder } from "../training/data/packing/encode.ts";
import { packCorpus } from "../training/data/packing/pack.ts";
import { readRecipe, type Recipe } from "../training/data/recipe/recipe.ts";
import { withReasoning } from "../training/data/rows.ts";
import { trainTokenizer } from "../training/data/tokenizer/train.ts";
import { type Notation, NOTATIONS } from "../training/data/working.ts";
import { DISK_FILES, fingerprintOf, openFolder } from "./data_folder.ts";
import { packText, reportText } from "./data_report.ts";
import { choiceFlag, helpText, integerFlag, parseFlags, switchFlag, textFlag } from "./flags.ts";
import {
  type CommandIo,
  EXIT_FAILURE,
  formatCount,
  onInterrupt,
  processIo,
  progressBar,
  runCommand,
  write,
} from "./terminal.ts";

const FLAGS = {
  recipe: textFlag({ help: "the corpus's recipe, as in recipes/data", placeholder: "FILE" }),
  out: textFlag({ help: "the folder to write to, empty or not there yet", placeholder: "DIR" }),
  data: textFlag({
    help: "where the recipe's files lie; without it, beside the recipe",
    placeholder: "DIR",
  }),
  resume: switchFlag({ help: "goes on with what the folder holds of this recipe" }),
  level: integerFlag({
    help: "show: the problems' difficulty",
    min: 1,
    max: 9,
    fallback: undefined,
    shown: "all of them",
  }),
  count: integerFlag({ help: "show: how many problems", min: 1, max: 100_000, fallback: 5 }),
  seed: integerFlag({
    help: "show: the seed of the problems",
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    fallback: 1,
  }),
  notation: choiceFlag({
    help: "show: how arithmetic is written down",
    words: NOTATIONS,
    fallback: "columns",
  }),
  wording: choiceFlag({
    help: "show: in a phrasing of several with a sentence for an answer, or as short as can be",
    words: WORDINGS,
    fallback: "full",
  }),
};

const USAGE = "deno task data --recipe FILE --out DIR [--resume] | deno task data show FAMILY";
const ABOUT = "Makes a corpus for training, or shows problems that it would be made of.";

/** Runs the command and returns its exit code. `signal` stops it as Ctrl-C does. */
export async function main(
  args: readonly string[],
  options: { io?: CommandIo; signal?: AbortSignal } = {},
): Promise<number> {
  const { io = processIo(), signal } = options;
  const parsed = parseFlags(FLAGS, { command: "make data", args, env: io.env, maxPositionals: 2 });
  if (parsed.help) {
    write(io.stdout, `${helpText(FLAGS, { usage: USAGE, about: ABOUT })}\n`);
    return 0;
  }
  const { recipe, out, data, resume } = parsed.values;
  const [verb, family] = parsed.positionals;
  if (verb === "show") {
    show(family, { ...parsed.values, io });
    return 0;
  }
  if (verb !== undefined) {
    throw new OptionError(`cannot make data: ${JSON.stringify(verb)} is no command, must be show`);
  }
  for (const [name, value] of Object.entries({ recipe, out })) {
    if (value === undefined) throw new OptionError(`cannot make data: --${name} is missing`);
  }
  return await make({ path: recipe!, out: out!, data, resume, io, signal });
}

function show(
  name: string | undefined,
  options: {
    level?: number;
    count: number;
    seed: number;
    notation: Notation;
    wording: Wording;
    io: CommandIo;
  },
): void {
  const { level, count, seed, notation, wording, io } = options;
  const family = familyNamed(name ?? "");
  if (family === undefined) {
    const known = FAMILIES.map(({ name, about }) => `  ${name.padEnd(16)}${about}`).join("\n");
    throw new OptionError(
      `cannot show problems: ${JSON.stringify(name ?? "")} is no family, must be one of\n${known}`,
    );
  }
  if (level !== undefined && level > family.levels) {
    throw new OptionError(
      `cannot show problems: --level is ${level}, must be at most ${family.levels} for ${name}`,
    );
  }
  const levels: [number, number] = level === undefined ? [1, family.levels] : [level, level];
  for (let index = 0; index < count; index++) {
    const problem = problemAt(family, { seed, index, levels, notation, wording });
    const solution = withReasoning(problem.steps.join("\n"), problem.reply);
    write(io.stdout, `${problem.prompt}\n${solution}\n\n`);
  }
}

interface Job {
  /** The recipe's file. */
  readonly path: string;
  readonly out: string;
  readonly data?: string;
  readonly resume: boolean;
  readonly io: CommandIo;
  readonly signal?: AbortSignal;
}

async function make(job: Job): Promise<number> {
  const { out, io } = job;
  const recipe = await openRecipe(job);
  const folder = openFolder(out);
  if (!job.resume && folder.names().length > 0) {
    throw new OptionError(
      `cannot make data: ${JSON.stringify(out)} is not empty, must be, or go on with --resume`,
    );
  }
  if (!await build(recipe, { ...job, folder })) {
    write(io.stderr, "Stopped. The same command with --resume goes on from here.\n");
    return EXIT_FAILURE;
  }
  write(io.stdout, reportText(readReport(folder)));
  if (recipe.tokenizer !== null) await makeTokenizer(recipe, { ...job, folder });
  if (recipe.pack !== null) await pack(recipe, { ...job, folder });
  return 0;
}

async function openRecipe({ path, data }: Job): Promise<Recipe> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    throw new OptionError(
      `cannot make data: --recipe cannot be read (${(error as Error).name}), must be a file`,
    );
  }
  const folder = data === undefined ? path.replace(/[^/\\]*$/, "") : `${data}/`;
  const resolve = (file: string) => /^(?:\/|[A-Za-z]:)/.test(file) ? file : folder + file;
  return readRecipe(text, { file: path, resolve });
}

type OpenJob = Job & { readonly folder: OutputFolder };

async function build(recipe: Recipe, { folder, io, signal }: OpenJob): Promise<boolean> {
  const inputs = [...recipe.sources, ...recipe.evaluations].flatMap((source) =>
    "paths" in source ? source.paths : []
  );
  let rows = { train: 0, heldout: 0, read: 0 };
  const bar = progressBar(io.stderr, {
    label: recipe.name,
    amounts: () =>
      `${formatCount(rows.train)} rows, ${formatCount(rows.heldout)} held out, ` +
      `${formatCount(rows.read)} read`,
  });
  return await buildCorpus({
    recipe,
    fingerprint: await fingerprintOf(recipe, inputs),
    folder,
    files: DISK_FILES,
    signal,
    onProgress(progress) {
      rows = progress;
      bar.onProgress({ loadedBytes: progress.share * 1e6, totalBytes: 1e6 });
    },
  }).finally(bar.clear);
}

/** Trains the tokenizer, or copies the one that the recipe names; one that is there stays. */
async function makeTokenizer(recipe: Recipe, { out, folder, io }: OpenJob): Promise<void> {
  const target = openFolder(`${out}/tokenizer`);
  const wanted = recipe.tokenizer!;
  if (target.readText(LAST_TOKENIZER_FILE) !== null) return;
  let files: Readonly<Record<string, string>>;
  if ("from" in wanted) {
    files = Object.fromEntries(
      await Promise.all(TOKENIZER_FILES.map(async (name) => [
        name,
        await Deno.readTextFile(`${wanted.from}/${name}`),
      ])),
    );
  } else {
    let stage = "";
    const bar = progressBar(io.stderr, { label: "Tokenizer", amounts: () => stage });
    const rows = corpusRows(folder, { side: "train" });
    files = {
      ...await trainTokenizer(rows, {
        recipe: wanted,
        onProgress(progress) {
          stage = `${progress.done} ${progress.stage}`;
          bar.onProgress({ loadedBytes: progress.done, totalBytes: progress.of });
        },
      }).finally(bar.clear),
    };
  }
  for (const name of TOKENIZER_FILES) target.write(name, new TextEncoder().encode(files[name]));
}

/** The last one says that both are there. */
const LAST_TOKENIZER_FILE = "tokenizer_config.json";
const TOKENIZER_FILES = ["tokenizer.json", LAST_TOKENIZER_FILE];

async function pack(recipe: Recipe, { out, folder, io }: OpenJob): Promise<void> {
  const tokens = openFolder(`${out}/tokenizer`);
  const target = openFolder(`${out}/packed`);
  if (target.readText(PACK_REPORT) !== null) return;
  const source = {
    format: "safetensors" as const,
    name: `${out}/tokenizer`,
    metadata: new Map(),
    sidecar: (name: string) => Promise.resolve(tokens.readText(name)),
  };
  const tokenizer = await loadTokenizer(source);
  const template = await loadChatTemplate(source, { tokenizer });
  const all = readManifest(folder).train.reduce((sum, { rows }) => sum + rows, 0);
  let done = 0;
  const bar = progressBar(io.stderr, {
    label: "Packing",
    amounts: () => `${formatCount(done)} of ${formatCount(all)} rows`,
  });
  const statistics = await packCorpus(corpusRows(folder, { side: "train" }), {
    recipe: recipe.pack!,
    encoder: new SampleEncoder(tokenizer, template),
    padToken: tokenizer.padToken ?? tokenizer.eosToken ?? 0,
    write: (name, bytes) => target.write(name, bytes),
    onProgress(rows) {
      done = rows;
      bar.onProgress({ loadedBytes: rows, totalBytes: all });
    },
  }).finally(bar.clear);
  const text = `${JSON.stringify({ ...recipe.pack, ...statistics }, null, 2)}\n`;
  target.write(PACK_REPORT, new TextEncoder().encode(text));
  write(io.stdout, packText(statistics));
}

/** Written last. */
const PACK_REPORT = "report.json";

if (import.meta.main) {
  const stop = new AbortController();
  onInterrupt(() => stop.abort(), { terminate: true });
  await runCommand(() => main(Deno.args, { signal: stop.signal }));
}
