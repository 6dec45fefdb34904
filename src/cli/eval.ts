/**
 * `deno task eval`: what a model gets right of a set of problems, with how sure that is, how it was
 * asked, and what it has cost; and, of a mixture, which experts took which tokens.
 */

import { OptionError, RequestError, UnsupportedOpError } from "../errors.ts";
import { specialisationOf } from "../eval/routing.ts";
import { runSet } from "../eval/run.ts";
import { SET_NAMES } from "../eval/sets.ts";
import { costOf, groupsOf, metricsOf } from "../eval/summary.ts";
import type { EvalSet, EvalSettings, ItemResult } from "../eval/types.ts";
import type { Specialisation } from "../experts/specialisation.ts";
import { loadModel } from "../text/load.ts";
import type { TextModel } from "../text/types.ts";
import { ENGINE_FLAGS, loadOptions } from "./engine_flags.ts";
import { openSet, SET_MUST } from "./eval_data.ts";
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
  set: textFlag({
    help: `what to ask: ${SET_NAMES.join(", ")}, or heldout:FOLDER, a corpus of \`deno task data\``,
    placeholder: "SET",
    must: SET_MUST,
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
  ...ENGINE_FLAGS,
};

type Values = FlagValues<typeof FLAGS>;

const USAGE = "deno task eval --set SET [--model PATH] [--data FILE] [--limit N] [--json FILE]";
const ABOUT = "Measures a model on problems with known answers (docs/evaluation.md).";

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
  if (values.chat && set.items[0].kind === "choice") {
    throw new OptionError(
      "cannot evaluate: --chat is given with a set of choices, must be with one of answers",
    );
  }
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
      ? await routedKinds(model, { results, io, signal })
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

async function routedKinds(
  model: TextModel,
  { results, io, signal }: {
    results: readonly ItemResult[];
    io: CommandIo;
    signal: AbortSignal | undefined;
  },
): Promise<Specialisation> {
  const bar = progressBar(io.stderr, { label: "Routing", amounts: () => "" });
  return await specialisationOf(model, {
    sequences: results.map(({ tokens }) => tokens),
    ...(signal && { signal }),
    onProgress: (done) => bar.onProgress({ loadedBytes: done, totalBytes: results.length }),
  }).finally(bar.clear);
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
  const stopped = new RequestError("stopped before the end, and nothing was written");
  onInterrupt(() => stop.abort(stopped), { terminate: true });
  await runCommand(() => main(Deno.args, { signal: stop.signal }));
}
