/**
 * `deno task eval`: what a model gets right of a set of problems, with how sure that is, how it was
 * asked, and what it has cost; and, of a mixture, which experts took which tokens.
 */

import { OptionError, UnsupportedOpError } from "../errors.ts";
import { heldoutItem } from "../eval/heldout.ts";
import { runSet } from "../eval/run.ts";
import { type DataFile, heldoutSet, readSet, SET_NAMES, setFacts } from "../eval/sets.ts";
import type { SetFacts, SetName } from "../eval/sets.ts";
import { costOf, groupsOf, metricsOf } from "../eval/summary.ts";
import type { EvalSet, EvalSettings, GenerationItem, ItemResult } from "../eval/types.ts";
import { SpecialisationCounter, tokenClass } from "../experts/specialisation.ts";
import { baseName } from "../formats/byte_source.ts";
import { NEUTRAL_SAMPLING } from "../sampling/types.ts";
import { loadModel } from "../text/load.ts";
import type { TextModel } from "../text/types.ts";
import { corpusRows } from "../training/data/corpus.ts";
import type { Row } from "../training/data/rows.ts";
import { chosenRows } from "../training/phases/prompts.ts";
import { openFolder } from "./data_folder.ts";
import { ENGINE_FLAGS, loadOptions } from "./engine_flags.ts";
import { type EvalReport, evalText, specialisationText } from "./eval_report.ts";
import {
  type FlagValues,
  helpText,
  integerFlag,
  numberFlag,
  parseFlags,
  switchFlag,
  textFlag,
} from "./flags.ts";
import { modelIdOf, modelPathOf } from "./model_path.ts";
import { writeNotices } from "./notices.ts";
import {
  type CommandIo,
  onInterrupt,
  printable,
  processIo,
  progressBar,
  runCommand,
  write,
} from "./terminal.ts";

const FLAGS = {
  ...ENGINE_FLAGS,
  set: textFlag({
    help: `what to ask: ${SET_NAMES.join(", ")}, or heldout:FOLDER, a corpus of \`deno task data\``,
    placeholder: "SET",
    must: `one of ${SET_NAMES.join(", ")}, or heldout:FOLDER`,
  }),
  data: textFlag({
    help: "the set's file (JSON lines); by default in --shared",
    placeholder: "FILE",
  }),
  shared: textFlag({ help: "a folder with the sets' usual files in data/", placeholder: "DIR" }),
  limit: integerFlag({
    help: "problems at most: the first ones, of a corpus a fixed choice",
    min: 1,
    max: 1e9,
    fallback: undefined,
    shown: "all",
  }),
  shots: integerFlag({
    help: "worked examples in front of a raw prompt",
    min: 0,
    max: 64,
    fallback: undefined,
    shown: "gsm8k and svamp 5, math-500 4, else 0",
  }),
  "shots-data": textFlag({
    help: "where they come from; by default the set's training half in --shared",
    placeholder: "FILE",
  }),
  chat: switchFlag({
    help: "ask through the chat template, without shots; thinking is not judged",
  }),
  "max-tokens": integerFlag({
    help: "tokens of an answer at most",
    min: 1,
    max: 2 ** 20,
    fallback: undefined,
    shown: "the set's",
  }),
  temperature: numberFlag({ help: "0 is greedy", min: 0, max: 2, fallback: 0 }),
  "top-p": numberFlag({ help: "nucleus of random answers", min: 0, max: 1, fallback: 1 }),
  samples: integerFlag({
    help: "random answers to each problem, whose mean counts (pass@1)",
    min: 1,
    max: 1024,
    fallback: 1,
  }),
  seed: integerFlag({ help: "of random answers", min: 0, max: 2 ** 31, fallback: 0 }),
  slots: integerFlag({ help: "problems side by side", min: 1, max: 64, fallback: 8 }),
  watts: numberFlag({
    help: "what the machine draws, for the cost; 0: not known",
    placeholder: "W",
    min: 0,
    max: 1e6,
    fallback: 0,
  }),
  specialisation: switchFlag({ help: "also tell which experts take which kinds of tokens" }),
  json: textFlag({ help: "a file for the figures and each problem's scores", placeholder: "FILE" }),
};

type Values = FlagValues<typeof FLAGS>;

const USAGE = "deno task eval --set SET [--model PATH] [--data FILE] [--limit N] [--json FILE]";
const ABOUT = "Measures a model on problems with known answers (docs/evaluation.md).";
const HELDOUT = /^heldout:(.+)$/;
/** Thinking and answer, where a corpus's problems are asked. */
const HELDOUT_TOKENS = 512;

/** Runs the command and returns its exit code. `signal` stops it as Ctrl-C does. */
export async function main(
  args: readonly string[],
  { io = processIo(), signal }: { io?: CommandIo; signal?: AbortSignal } = {},
): Promise<number> {
  const { values, help } = parseFlags(FLAGS, { command: "evaluate", args, env: io.env });
  if (help) {
    write(io.stdout, `${helpText(FLAGS, { usage: USAGE, about: ABOUT })}\n`);
    return 0;
  }
  const { set, facts } = await openSet(values);
  const chat = values.chat || set.chatOnly === true;
  const settings: EvalSettings = {
    chat,
    maxTokens: values["max-tokens"] ?? (chat ? facts.chatTokens : facts.maxTokens),
    temperature: values.temperature,
    topP: values["top-p"],
    seed: values.seed,
    samples: values.samples,
    slots: values.slots,
  };
  if (values.samples > 1 && values.temperature === 0) {
    throw new OptionError(
      "cannot evaluate: --samples is given with --temperature 0, must be with a higher one",
    );
  }
  const path = modelPathOf(values.model);
  const loading = progressBar(io.stderr, "Loading");
  const model = await loadModel({
    ...loadOptions(values, path),
    slots: values.slots,
    maxWaiting: values.slots * 2,
    onProgress: loading.onProgress,
  }).finally(loading.clear);
  try {
    writeNotices(io.stderr, model.info);
    if (values.specialisation && model.info.routedLayers.length === 0) {
      throw new UnsupportedOpError(
        "cannot tell experts apart: the model has none, must be a mixture of experts",
      );
    }
    if (chat && !model.hasTemplate) {
      throw new OptionError(
        "cannot evaluate: the model has no chat template, must have one for conversations",
      );
    }
    const report = await evaluated(model, { set, settings, values, io, signal });
    write(io.stdout, printable(evalText({ ...report, model: modelIdOf(path) })));
    const { results, ...figures } = report;
    const specialisation = values.specialisation
      ? await specialisationOf(model, { results, slots: values.slots, io, signal })
      : undefined;
    if (specialisation) write(io.stdout, specialisationText(specialisation));
    if (values.json !== undefined) {
      const problems = results.map(({ tokens: _tokens, ...result }) => result);
      const json = { model: modelIdOf(path), ...figures, specialisation, problems };
      writeJson(values.json, json);
    }
    return 0;
  } finally {
    await model.close();
  }
}

async function evaluated(
  model: TextModel,
  options: {
    set: EvalSet;
    settings: EvalSettings;
    values: Values;
    io: CommandIo;
    signal: AbortSignal | undefined;
  },
): Promise<EvalReport & { results: readonly ItemResult[] }> {
  const { set, settings, values, io, signal } = options;
  const sums = new Map<string, number>();
  let shown = "";
  const bar = progressBar(io.stderr, { label: set.name, amounts: () => shown });
  const { results, counts } = await runSet(model, set, {
    settings,
    ...(signal && { signal }),
    onResult({ scores }, done, { answerTokens, seconds }) {
      const figures = Object.entries(scores).map(([name, score]) => {
        sums.set(name, (sums.get(name) ?? 0) + score);
        return `${name} ${(100 * sums.get(name)! / done).toFixed(1)} %`;
      });
      const left = seconds / done * (set.items.length - done);
      const speed = answerTokens > 0 ? [`${Math.round(answerTokens / seconds)} tokens/s`] : [];
      shown = [`${done}/${set.items.length}`, ...figures, ...speed, `${Math.round(left)} s left`]
        .join(", ");
      bar.onProgress({ loadedBytes: done, totalBytes: set.items.length });
    },
  }).finally(bar.clear);
  const { activeParameters, quantisation, backend, activations, parameters } = model.info;
  return {
    set: set.name,
    data: set.data,
    problems: results.length,
    settings: { ...settings, shots: settings.chat ? 0 : set.shots.length },
    engine: { parameters, activeParameters, quantisation, backend, activations },
    metrics: metricsOf(results),
    chance: set.chance,
    groups: groupsOf(results),
    fewerShots: results.filter(({ cut }) => cut).length,
    tooLong: results.filter(({ tooLong }) => tooLong).length,
    unfinished: results.reduce((sum, { unfinished }) => sum + unfinished, 0),
    counts,
    watts: values.watts || null,
    cost: costOf(counts, {
      problems: results.length,
      activeParameters,
      watts: values.watts || null,
    }),
    results,
  };
}

async function openSet(values: Values): Promise<{ set: EvalSet; facts: SetFacts }> {
  const { set: name, limit } = values;
  const folder = HELDOUT.exec(name ?? "")?.[1];
  if (folder !== undefined) {
    const facts = { shots: 0, maxTokens: HELDOUT_TOKENS, chatTokens: HELDOUT_TOKENS };
    return { set: await openHeldout(folder, limit), facts };
  }
  if (!(SET_NAMES as readonly (string | undefined)[]).includes(name)) {
    const is = name === undefined ? "missing" : JSON.stringify(name);
    throw new OptionError(`cannot evaluate: --set is ${is}, must be ${FLAGS.set.must}`);
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
  { flag, file, values }: { flag: "data" | "shots-data"; file?: string; values: Values },
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

/** Where the gates send prompts and answers, read once more as one text each. */
async function specialisationOf(
  model: TextModel,
  options: {
    results: readonly ItemResult[];
    slots: number;
    io: CommandIo;
    signal: AbortSignal | undefined;
  },
) {
  const { io, signal } = options;
  const layers = model.info.routedLayers;
  const choices = layers.reduce((sum, { topK }) => sum + topK, 0);
  const counter = new SpecialisationCounter(layers);
  const { bosToken, eosToken, padToken } = model.tokenizerFacts;
  const control = new Set([bosToken, eosToken, padToken]);
  const bar = progressBar(io.stderr, { label: "Routing", amounts: () => "" });
  const texts = options.results.map(({ tokens }) => tokens).filter(({ length }) => length > 0);
  for (const [done, tokens] of texts.entries()) {
    const room = tokens.slice(0, model.info.contextLength);
    const prompt = await model.textPrompt(room);
    const events = model.answer(prompt, {
      ...{ sampling: NEUTRAL_SAMPLING, maxTokens: 0, routedExperts: "all" },
      ...(signal && { signal }),
    });
    for await (const event of events) {
      if (event.type !== "prompt" || event.routing === undefined) continue;
      for (const [i, token] of room.entries()) {
        const text = model.decode([token]);
        const kind = tokenClass(text, {
          control: control.has(text) || /^<[|｜].*[|｜]>$/.test(text),
        });
        counter.add(kind, { experts: event.routing.experts, at: i * choices });
      }
    }
    bar.onProgress({ loadedBytes: done + 1, totalBytes: texts.length });
  }
  bar.clear();
  return counter.summary();
}

function writeJson(path: string, value: unknown): void {
  try {
    Deno.writeTextFileSync(`${path}.new`, `${JSON.stringify(value, null, 1)}\n`);
    Deno.renameSync(`${path}.new`, path);
  } catch (error) {
    throw new OptionError(
      `cannot evaluate: --json cannot be written (${(error as Error).name}), ` +
        "must be a file in a folder that is there",
    );
  }
}

if (import.meta.main) {
  const stop = new AbortController();
  onInterrupt(() => stop.abort(), { terminate: true });
  await runCommand(() => main(Deno.args, { signal: stop.signal }));
}
