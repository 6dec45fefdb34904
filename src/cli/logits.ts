/**
 * `deno task logits`: what a model makes of given token ids, for comparison with other
 * implementations. Standard output is one JSON object; `--out` takes the logits of every position.
 */

import type { Backend } from "../backend/backend.ts";
import { type Budgets, budgetWarnings } from "../backend/budget.ts";
import { createBackend } from "../backend/create.ts";
import { CapacityError, FormatError, OptionError } from "../errors.ts";
import { openCheckpoint } from "../formats/open.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { Evaluator, topOf } from "../model/evaluate.ts";
import { loadModel, readModelConfig } from "../model/registry.ts";
import type { LoadModelOptions } from "../model/types.ts";
import { defaultThreads } from "../text/load.ts";
import { ENGINE_FLAGS } from "./engine_flags.ts";
import { type Flag, helpText, integerFlag, parseFlags, switchFlag, textFlag } from "./flags.ts";
import { openLogitsFile } from "./logits_file.ts";
import { printable, progressBar, runCommand, type Terminal, write } from "./terminal.ts";

const IDS_MUST = "whole numbers separated by commas";

const idsFlag: Flag<readonly number[] | undefined> = {
  help: "token ids of one sequence",
  placeholder: "1,2,3",
  must: IDS_MUST,
  fallback: undefined,
  parse: (text) =>
    /^\d{1,9}(,\d{1,9})*$/.test(text.replaceAll(" ", ""))
      ? text.split(",").map((id) => Number(id))
      : undefined,
};

const FLAGS = {
  model: ENGINE_FLAGS.model,
  ids: idsFlag,
  "ids-file": textFlag({
    help: "a JSON list of lists of token ids, one list a sequence",
    placeholder: "FILE",
    must: "the path of a file",
  }),
  backend: ENGINE_FLAGS.backend,
  activations: ENGINE_FLAGS.activations,
  threads: ENGINE_FLAGS.threads,
  memory: ENGINE_FLAGS.memory,
  "expert-cache": ENGINE_FLAGS["expert-cache"],
  "expert-policy": ENGINE_FLAGS["expert-policy"],
  "expert-groups": ENGINE_FLAGS["expert-groups"],
  chunk: integerFlag({
    help: "tokens evaluated at a time",
    min: 1,
    max: 4096,
    fallback: 64,
  }),
  greedy: integerFlag({
    help: "most likely tokens to append to each sequence",
    min: 0,
    max: 2 ** 20,
    fallback: 0,
  }),
  out: textFlag({
    help: "a .safetensors file for the logits of every position",
    placeholder: "FILE",
    must: "the path of a file",
  }),
  routing: switchFlag({
    help: "write which experts each layer chose, and their weights, to --out",
  }),
  hidden: switchFlag({ help: "write the hidden states of each layer to --out" }),
};

const ABOUT =
  "Prints the ten largest logits at each sequence's end as [token, logit], and the tokens\n" +
  "that greedy decoding appends. --out gets seq<i>.logits, float32 [tokens, vocabulary], with\n" +
  "--routing also seq<i>.router.<layer>.experts, int32 [tokens, k], and .weights, float32, the best\n" +
  "expert first, with --hidden also seq<i>.hidden.<layer>, float32 [tokens, hidden]: what the layer\n" +
  "reads, and, as the last one, what the output matrix does.";

/** Runs the command; the exit code is 0. Throws OptionError for wrong flags and the loader's errors. */
export async function main(
  args: string[],
  { stdout = Deno.stdout }: { stdout?: Pick<Terminal, "writeSync"> } = {},
): Promise<number> {
  const { values, help } = parseFlags(FLAGS, {
    command: "evaluate logits",
    args,
    env: (name) => Deno.env.get(name),
  });
  if (help) {
    const usage = "deno task logits --model PATH (--ids 1,2,3 | --ids-file FILE) [flags]";
    write(stdout, `${helpText(FLAGS, { usage, about: ABOUT })}\n`);
    return 0;
  }
  if (values.model === undefined) {
    throw new OptionError(
      "cannot evaluate logits: --model is missing, must be the path of a model",
    );
  }
  const { chunk, greedy, out, routing, hidden } = values;
  if (out === undefined && (routing || hidden)) {
    throw new OptionError(
      `cannot evaluate logits: --${routing ? "routing" : "hidden"} is given without --out, ` +
        "must come with the file that gets it",
    );
  }
  const sequences = await readSequences({ ids: values.ids, file: values["ids-file"] });
  const source = await openCheckpoint(values.model);
  try {
    const budgets = { memoryBytes: values.memory, expertCacheBytes: values["expert-cache"] };
    const backend = await createBackend({
      ...values,
      ...budgets,
      threads: values.threads ?? defaultThreads(),
      expertPolicy: values["expert-policy"],
      weightBytes: source.byteLength,
    });
    try {
      const report = await evaluate({
        source,
        backend,
        sequences,
        chunk,
        greedy,
        out,
        routing,
        hidden,
        budgets,
        expertGroups: values["expert-groups"],
      });
      write(stdout, `${JSON.stringify(report)}\n`);
    } finally {
      backend.close();
    }
  } finally {
    source.close();
  }
  return 0;
}

/** What standard output gets; both lists have one entry a sequence. */
interface Report {
  /** The largest logits of the last position, largest first. */
  readonly top10: readonly (readonly [token: number, logit: number][])[];
  readonly greedy: readonly (readonly number[])[];
}

async function evaluate(
  options: {
    source: TensorSource;
    backend: Backend;
    sequences: readonly (readonly number[])[];
    chunk: number;
    greedy: number;
    out: string | undefined;
    routing: boolean;
    hidden: boolean;
    budgets: Budgets;
    expertGroups: LoadModelOptions["expertGroups"];
  },
): Promise<Report> {
  const { source, backend, sequences, chunk, greedy, out, routing, hidden, expertGroups } = options;
  const config = readModelConfig(source);
  checkIds(sequences, config.vocabSize);
  const longest = Math.max(...sequences.map(({ length }) => length));
  if (longest + greedy > config.contextLength) {
    throw new CapacityError(
      `cannot evaluate logits: the longest sequence is ${longest} + ${greedy} tokens, ` +
        `must fit the model's context of ${config.contextLength}`,
    );
  }
  const rows = Math.min(chunk, longest);
  const bar = progressBar(Deno.stderr, "Loading");
  const warnings: string[] = [];
  const model = await loadModel({
    source,
    backend,
    maxRows: rows,
    // Logits of every position are only computed where they are kept.
    maxLogitRows: out === undefined ? 1 : rows,
    keepHidden: hidden,
    onProgress: bar.onProgress,
    onWarning: (message) => warnings.push(message),
    ...(expertGroups && { expertGroups }),
  }).finally(bar.clear);
  const evaluator = new Evaluator({
    model,
    backend,
    maxRows: rows,
    sequences: 1,
    tokens: longest + greedy,
  });
  const routedLayers = model.routedLayers.length;
  warnings.push(...budgetWarnings(options.budgets, { routedLayers, memory: backend.memory() }));
  for (const warning of warnings) write(Deno.stderr, `warning: ${printable(warning)}\n`);
  const file = out === undefined
    ? undefined
    : openLogitsFile(out, { sequences, model, routing, hidden });
  try {
    const top10: [number, number][][] = [];
    const answers: number[][] = [];
    for (const ids of sequences) {
      const last = await evaluator.prefill(ids, { chunk: rows, ...file?.observer });
      checkFinite(last);
      file?.endSequence();
      top10.push(topOf(last, 10));
      answers.push(await evaluator.greedy(last, { count: greedy }));
    }
    file?.finish();
    return { top10, greedy: answers };
  } finally {
    file?.close();
  }
}

/** Throws FormatError where the logits [vocab] of a sequence's last position are not numbers. */
function checkFinite(logits: Float32Array): void {
  const token = logits.findIndex((logit) => !Number.isFinite(logit));
  if (token < 0) return;
  const must = "finite (the model's weights may be damaged)";
  throw FormatError.of("evaluate logits", `the logit of token ${token}`, logits[token], must);
}

async function readSequences(
  options: { ids: readonly number[] | undefined; file: string | undefined },
): Promise<readonly (readonly number[])[]> {
  const { ids, file } = options;
  if ((ids === undefined) === (file === undefined)) {
    const is = ids === undefined
      ? "neither --ids nor --ids-file is"
      : "both --ids and --ids-file are";
    throw new OptionError(`cannot evaluate logits: ${is} given, must be one of them`);
  }
  if (ids !== undefined) return [ids];
  const sequences = parseJson(await readText(file as string));
  if (isSequences(sequences)) return sequences;
  throw new OptionError(
    "cannot evaluate logits: --ids-file holds something else, " +
      "must be a JSON list of lists of token ids, none of them empty",
  );
}

async function readText(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    throw new OptionError(
      `cannot evaluate logits: --ids-file cannot be read (${(error as Error).name}), ` +
        "must be the path of a file",
    );
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isSequences(value: unknown): value is number[][] {
  return Array.isArray(value) && value.length > 0 &&
    value.every((ids) =>
      Array.isArray(ids) && ids.length > 0 &&
      ids.every((id) => Number.isInteger(id) && id >= 0)
    );
}

function checkIds(sequences: readonly (readonly number[])[], vocabSize: number): void {
  for (const [i, ids] of sequences.entries()) {
    const bad = ids.find((id) => id >= vocabSize);
    if (bad === undefined) continue;
    throw new OptionError(
      `cannot evaluate logits: sequence ${i} holds token ${bad}, ` +
        `must be below the vocabulary's ${vocabSize}`,
    );
  }
}

if (import.meta.main) await runCommand(() => main(Deno.args));
