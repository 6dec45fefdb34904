/**
 * `deno task train`: runs the phases of a recipe, from the corpus to a model in Hugging Face's form. The
 * last line of its output is a hash of the whole state.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { OptionError } from "../errors.ts";
import { openCheckpoint } from "../formats/open.ts";
import type { MetadataValue, TensorSource } from "../formats/tensor_source.ts";
import type { Tokenizer } from "../tokenizer/mod.ts";
import { MANIFEST_FILE } from "../training/data/build/finish.ts";
import { writeText } from "../training/data/build/folder.ts";
import { initialWeights } from "../training/initial_weights.ts";
import { ranksOf } from "../training/parallel/grid.ts";
import type { TimelineEvent } from "../training/parallel/timeline.ts";
import { costText } from "../training/run/costs.ts";
import { openData, type RunData } from "../training/run/data.ts";
import { GridReport } from "../training/run/grid_report.ts";
import type { RunResult } from "../training/run/job.ts";
import { runPipeline } from "../training/run/pipeline.ts";
import { readTrainRecipe, type TrainRecipe } from "../training/run/recipe.ts";
import { openScorer } from "../training/run/scoring.ts";
import { STATE_FILE } from "../training/run/state.ts";
import { main as makeData } from "./data.ts";
import { openFolder } from "./data_folder.ts";
import { BACKEND_WORDS, backendOf } from "./train_backend.ts";
import { stepBar } from "./train_bar.ts";
import { choiceFlag, helpText, integerFlag, parseFlags, switchFlag, textFlag } from "./flags.ts";
import { openRunPage } from "./run_page.ts";
import {
  type CommandIo,
  EXIT_FAILURE,
  onInterrupt,
  processIo,
  runCommand,
  write,
} from "./terminal.ts";

const FLAGS = {
  recipe: textFlag({ help: "the run's recipe, as in recipes/train", placeholder: "FILE" }),
  state: textFlag({
    help: "the folder of the run: its state, its data and its models; .state/NAME by default",
    placeholder: "DIR",
  }),
  resume: switchFlag({ help: "goes on with the run that the folder holds" }),
  phase: textFlag({ help: "stops after this phase of the recipe", placeholder: "NAME" }),
  backend: choiceFlag({
    help: "what computes: the recipe's, or another; auto is webgpu where there is a GPU",
    words: BACKEND_WORDS,
    fallback: "recipe",
  }),
  "reward-key": textFlag({
    help: "the API key for the recipe's rewards.url; better as SLUICE_REWARD_KEY",
    placeholder: "KEY",
  }),
  serve: {
    ...integerFlag({
      help: "shows the run live on a page of this machine; 0 takes a free port",
      placeholder: "[PORT]",
      min: 0,
      max: 65535,
      fallback: undefined,
      shown: "no page, 8001 without a port",
    }),
    bare: "8001",
  },
  threads: integerFlag({
    help: "threads of the wasm backend",
    min: 1,
    max: 64,
    fallback: undefined,
    shown: "one for each core",
  }),
  "data-parallel": placesFlag("copies of the model, each with a share of the batch"),
  pipeline: placesFlag("stages of layers, each on members of its own"),
  tensor: placesFlag("parts of each layer's heads and columns"),
  expert: placesFlag("parts of each layer's experts, each with a share of the batch"),
  "trace-out": textFlag({
    help: "writes what members did in each phase's last steps, for chrome://tracing or Perfetto",
    placeholder: "FILE",
  }),
};

function placesFlag(help: string) {
  return integerFlag({ help, min: 1, max: 64, fallback: 1 });
}

const USAGE = "deno task train --recipe FILE [--state DIR] [--resume] [--phase NAME] " +
  "[--backend NAME] [--serve [PORT]] [--data-parallel N] " +
  "[--pipeline N] [--tensor N] [--expert N] [--trace-out FILE]";
const ABOUT = "Trains a model: cold start, GRPO and rejection sampling, as the recipe says.";

/** Runs the command and returns its exit code. `signal` stops it as Ctrl-C does. */
export async function main(
  args: readonly string[],
  options: { io?: CommandIo; signal?: AbortSignal } = {},
): Promise<number> {
  const { io = processIo(), signal } = options;
  const { values, help } = parseFlags(FLAGS, { command: "train", args, env: io.env });
  if (help) {
    write(io.stdout, `${helpText(FLAGS, { usage: USAGE, about: ABOUT })}\n`);
    return 0;
  }
  if (values.recipe === undefined) throw new OptionError("cannot train: --recipe is missing");
  const given = await openRecipe(values.recipe);
  const { backend, text: backendText } = await backendOf(given.backend, values.backend);
  const recipe = { ...given, backend };
  const names = recipe.phases.map(({ name }) => name);
  if (values.phase !== undefined && !names.includes(values.phase)) {
    throw new OptionError(
      `cannot train: --phase is ${JSON.stringify(values.phase)}, must be one of ${
        names.join(", ")
      }`,
    );
  }
  const grid = {
    ...{ replicas: values["data-parallel"], stages: values.pipeline },
    ...{ tensor: values.tensor, expert: values.expert },
  };
  const traceOut = values["trace-out"];
  const report = ranksOf(grid) > 1 ? new GridReport(grid) : null;
  if (traceOut !== undefined && report === null) {
    throw new OptionError(
      "cannot train: --trace-out is given, must be with more than one member (--pipeline 2 for instance)",
    );
  }
  const state = values.state ?? `.state/${recipe.name}`;
  const folder = openFolder(state);
  if (!values.resume && folder.readText(STATE_FILE) !== null) {
    throw new OptionError(
      `cannot train: ${JSON.stringify(state)} holds a run, must be empty, or go on with --resume`,
    );
  }
  const data = await dataOf(recipe, { state, io, signal });
  if (data === null) return EXIT_FAILURE;
  const { source, config } = await modelOf(recipe, data.tokenizer);
  write(io.stdout, `backend ${backendText}\n`);
  const page = values.serve === undefined
    ? null
    : await openRunPage({ recipe, state, port: values.serve });
  if (page !== null) write(io.stdout, `live at ${page.url}\n`);
  const bar = stepBar(io);
  let result: RunResult | null = null;
  try {
    result = await runPipeline({
      ...{ recipe, data, source, config, folder },
      scorer: openScorer(recipe.rewards, { key: values["reward-key"] }),
      fingerprint: fingerprintOf(recipe, { data, config, source }),
      subfolder: (name) => openFolder(`${state}/${name}`),
      threads: values.threads ?? navigator.hardwareConcurrency,
      ...(values.phase !== undefined && { until: values.phase }),
      ...(signal && { signal }),
      ...(report && {
        grid,
        onTimeline: (phase: string, events: readonly TimelineEvent[]) => report.add(phase, events),
      }),
      onStep(progress) {
        bar.onStep(progress);
        page?.onStep(progress);
      },
      onEvent(line) {
        bar.clear();
        write(io.stdout, `${line}\n`);
        page?.onEvent(line);
      },
    });
  } finally {
    bar.clear();
    source.close();
    await page?.close(result?.outcome ?? "failed");
  }
  const { outcome, hash, costs, message } = result;
  writeText(folder, { name: "cost.json", text: `${JSON.stringify(costs, null, 1)}\n` });
  write(io.stdout, costText(costs, recipe.watts));
  if (report !== null) write(io.stdout, report.text());
  if (report !== null && traceOut !== undefined) {
    await Deno.writeTextFile(traceOut, report.trace());
  }
  if (message !== null) write(io.stderr, `${message}\n`);
  write(io.stdout, `state ${hash}\n`);
  return outcome === "done" ? 0 : EXIT_FAILURE;
}

async function openRecipe(path: string): Promise<TrainRecipe> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    throw new OptionError(
      `cannot train: --recipe cannot be read (${(error as Error).name}), must be a file`,
    );
  }
  const folder = path.replace(/[^/\\]*$/, "");
  const resolve = (file: string) => /^(?:\/|[A-Za-z]:)/.test(file) ? file : folder + file;
  return readTrainRecipe(text, { file: path, resolve });
}

/** The corpus that the recipe names, made first where it says how; null where that was stopped. */
async function dataOf(
  recipe: TrainRecipe,
  { state, io, signal }: { state: string; io: CommandIo; signal?: AbortSignal },
): Promise<RunData | null> {
  const out = "folder" in recipe.data ? recipe.data.folder : `${state}/data`;
  const at = (name: string) => openFolder(`${out}/${name}`);
  if ("recipe" in recipe.data && at("packed").readText("report.json") === null) {
    const { recipe: path, files } = recipe.data;
    const args = ["--recipe", path, "--out", out, "--resume"];
    const code = await makeData(files === undefined ? args : [...args, "--data", files], {
      ...{ io, ...(signal && { signal }) },
    });
    if (code !== 0) return null;
  }
  if (openFolder(out).readText(MANIFEST_FILE) === null) {
    throw new OptionError(
      `cannot train: data.folder is ${
        JSON.stringify(out)
      }, must be a whole corpus (deno task data)`,
    );
  }
  return await openData({
    rows: openFolder(out),
    tokenizer: at("tokenizer"),
    packed: at("packed"),
  });
}

type Config = Readonly<Record<string, MetadataValue>>;

async function modelOf(
  { model, seed }: TrainRecipe,
  tokenizer: Tokenizer,
): Promise<{ source: TensorSource; config: Config }> {
  if ("from" in model) {
    const source = await openCheckpoint(model.from);
    const text = await source.sidecar("config.json");
    if (text === null) {
      throw new OptionError(
        `cannot train: model.from is ${
          JSON.stringify(model.from)
        }, must be a folder with config.json`,
      );
    }
    return { source, config: JSON.parse(text) };
  }
  const { vocabSize } = tokenizer;
  const config: Config = { vocab_size: vocabSize, ...model.config };
  if (Number(config.vocab_size) < vocabSize) {
    throw new OptionError(
      `cannot train: model.config.vocab_size is ${config.vocab_size}, must be at least ` +
        `${vocabSize} (the tokenizer's)`,
    );
  }
  return { source: initialWeights(config, { seed, deviation: model.deviation }), config };
}

/** Stands for all that decides what is learnt; how much compute there is may change in between. */
function fingerprintOf(
  recipe: TrainRecipe,
  { data, config, source }: { data: RunData; config: Config; source: TensorSource },
): string {
  const { name, seed, batch, rewards, evaluation, backend, model } = recipe;
  const phases = recipe.phases.map(({ gate: _gate, share: _share, ...phase }) => phase);
  const begins = "from" in model ? source.byteLength : model.deviation;
  const text = JSON.stringify({
    ...{ name, seed, batch, rewards, evaluation, backend, phases, config, begins },
    ...{ data: data.fingerprint, tokenizer: data.tokenizerFiles },
  });
  return bytesToHex(sha256(new TextEncoder().encode(text)));
}

if (import.meta.main) {
  const stop = new AbortController();
  onInterrupt(() => stop.abort(), { terminate: true });
  await runCommand(() => main(Deno.args, { signal: stop.signal }));
}
