/**
 * `deno task bench`: how fast a model runs here, beside what the machine could do and beside other
 * engines. The last line of standard output is one JSON object. docs/performance.md says how to read it.
 */

import type { ActivationPrecision } from "../backend/backend.ts";
import { type BatchFigures, formatBatches, measureBatches } from "../bench/batch.ts";
import { chooseEngines } from "../bench/engines.ts";
import {
  type ExpertFigures,
  formatExpertKernels,
  measureExpertKernels,
} from "../bench/expert_kernels.ts";
import { formatKernels, kernelTypes, measureKernels } from "../bench/kernels.ts";
import { describeMachine, loadAverage, noiseWarning } from "../bench/machine.ts";
import { measure } from "../bench/measure.ts";
import { formatReport, interpret, type Report, type ThreadReport } from "../bench/report.ts";
import {
  formatPaging,
  measurePaging,
  type PagingFigures,
  pagingSettings,
} from "../bench/paging.ts";
import { contextOf, pagingPrompts } from "../bench/paging_prompts.ts";
import { serveSlowly } from "../bench/slow_server.ts";
import { readWorkload, type Workload } from "../bench/workload.ts";
import { CapacityError, OptionError } from "../errors.ts";
import type { TensorType } from "../quant/types.ts";
import { DEFAULT_ENGINE_OPTIONS, defaultThreads } from "../text/load.ts";
import {
  type Flag,
  type FlagValues,
  helpText,
  integerFlag,
  listFlag,
  parseFlags,
  sharesFlag,
  sizeFlag,
  switchFlag,
  textFlag,
} from "./flags.ts";
import { modelPathOf } from "./model_path.ts";
import { runCommand, type Terminal, write } from "./terminal.ts";

const DEFAULT_MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf";
const DEFAULT_EXPERT_TYPES: readonly TensorType[] = ["Q8_0", "Q4_K"];
const PRECISIONS: readonly string[] = ["q8", "q16", "f32"] satisfies ActivationPrecision[];

/** Whole numbers of [min, max] separated by commas. */
function integersFlag(
  options: { help: string; min: number; max: number; fallback: readonly number[]; shown: string },
): Flag<readonly number[]> {
  const { help, min, max, fallback, shown } = options;
  return {
    help,
    shown,
    fallback,
    placeholder: "N[,N]",
    must: `whole numbers from ${min} to ${max} separated by commas, each once`,
    parse: (text) => {
      if (!/^\d{1,9}(,\d{1,9})*$/.test(text)) return undefined;
      const numbers = text.split(",").map(Number);
      const good = numbers.every((n) => n >= min && n <= max) &&
        new Set(numbers).size === numbers.length;
      return good ? numbers : undefined;
    },
  };
}

export const BENCH_FLAGS = {
  model: textFlag({
    help:
      `the model; by default ${DEFAULT_MODEL} in the folder SLUICE_MODELS, for --paging the built-in one`,
    placeholder: "PATH",
    must: "the path of a model",
  }),
  threads: integersFlag({
    help: "numbers of threads, one after the other",
    min: 1,
    max: 64,
    fallback: [],
    shown: "one per core, up to 8",
  }),
  activations: listFlag({
    help: "precisions to measure (default q8,q16, for --paging q16)",
    placeholder: "q8|q16|f32[,..]",
    must: `some of ${PRECISIONS.join(", ")} separated by commas`,
    accepts: (word) => PRECISIONS.includes(word),
  }),
  runs: integerFlag({ help: "measurements of each kind", min: 1, max: 100, fallback: 5 }),
  prefill: integersFlag({
    help: "lengths of prompts; decoding follows the first",
    min: 1,
    max: 65536,
    fallback: [128, 512],
    shown: "128,512",
  }),
  decode: integerFlag({ help: "tokens to decode", min: 1, max: 65536, fallback: 64 }),
  batch: integersFlag({
    help: "instead: numbers of sequences decoded side by side",
    min: 1,
    max: 256,
    fallback: [],
    shown: "none",
  }),
  steps: switchFlag({ help: "also bare model steps, without the engine" }),
  busy: switchFlag({ help: "also decode beside a process that keeps one core busy" }),
  peers: switchFlag({ help: "also other engines, as far as the next three flags name them" }),
  "llama-python": textFlag({
    help: "a Python that has llama-cpp-python",
    placeholder: "FILE",
    must: "the path of a Python",
  }),
  "node-llama": textFlag({
    help: "a folder with node_modules/node-llama-cpp",
    placeholder: "DIR",
    must: "the path of a folder",
  }),
  wllama: textFlag({
    help: "a folder with node_modules/@wllama/wllama",
    placeholder: "DIR",
    must: "the path of a folder",
  }),
  kernels: switchFlag({ help: "single matrices instead of a model" }),
  experts: switchFlag({ help: "layers of routed experts instead of a model" }),
  paging: switchFlag({ help: "instead: decoding with part of the routed experts in memory" }),
  resident: sharesFlag({
    help: "shares of the experts that --paging has room for",
    fallback: [0.5, 0.25],
  }),
  memory: sizeFlag({ help: "for --paging also: what the whole process may take", shown: "none" }),
  latency: integerFlag({
    help: "for --paging: experts come over HTTP from this machine, each answer so many ms late",
    min: 0,
    max: 10_000,
    fallback: undefined,
    shown: "experts come from the file",
  }),
  text: textFlag({
    help: "for --paging: a text of which pieces are continued (default a few verses)",
    placeholder: "FILE",
    must: "the path of a text",
  }),
  types: listFlag({
    help: "types of weights for --kernels (default all) and --experts (default Q8_0,Q4_K)",
    placeholder: "TYPE[,TYPE]",
    must: `some of ${kernelTypes().join(", ")} separated by commas`,
    accepts: (word) => (kernelTypes() as string[]).includes(word),
  }),
  json: switchFlag({ help: "print the JSON line only" }),
};

const ABOUT =
  "Measures prefill and decode apart, with medians (and ranges) of several runs; engines\n" +
  "take turns, each in a process of its own. The last line is one JSON object.";

type Values = FlagValues<typeof BENCH_FLAGS>;

/** Runs the command; the exit code is 0. Throws OptionError for wrong flags and the loader's errors. */
export async function main(
  args: string[],
  { stdout = Deno.stdout, stderr = Deno.stderr }: {
    stdout?: Pick<Terminal, "writeSync">;
    stderr?: Pick<Terminal, "writeSync">;
  } = {},
): Promise<number> {
  const { values, help } = parseFlags(BENCH_FLAGS, {
    command: "bench",
    args,
    env: (name) => Deno.env.get(name),
  });
  if (help) {
    const usage = "deno task bench [--model PATH] [flags]";
    write(stdout, `${helpText(BENCH_FLAGS, { usage, about: ABOUT })}\n`);
    return 0;
  }
  const onProgress = (line: string) => write(stderr, `${line}\n`);
  const bench = values.kernels
    ? benchKernels
    : values.paging
    ? benchPaging
    : values.experts
    ? benchExperts
    : values.batch.length > 0
    ? benchBatches
    : benchModel;
  const { text, json } = await bench(values, onProgress);
  if (!values.json) write(stdout, `${text}\n\n`);
  write(stdout, `${JSON.stringify(json)}\n`);
  return 0;
}

async function benchModel(values: Values, onProgress: (line: string) => void) {
  const model = values.model ?? defaultModel();
  const workload = await readWorkload(model);
  const { prefill, decode, runs } = values;
  const longest = Math.max(...prefill, prefill[0] + decode);
  const context = contextFor(workload, { tokens: longest });
  const { engines, skipped } = chooseEngines({
    model,
    context,
    activations: precisions(values),
    steps: values.steps,
    peers: values.peers,
    llamaPython: values["llama-python"],
    nodeLlama: values["node-llama"],
    wllama: values.wllama,
  });
  const { warning, loadBefore } = quietness(onProgress);
  const results: ThreadReport[] = [];
  for (const threads of threadCounts(values)) {
    const figures = await measure({
      engines,
      threads,
      workload,
      prefill,
      decode,
      runs,
      busy: values.busy && threads > 1,
      onProgress,
    });
    results.push(interpret(figures, { workload }));
  }
  const json: Report = {
    model: baseName(model),
    workload,
    machine: describeMachine(),
    loadBefore,
    loadAfter: loadAverage(),
    prefill,
    decode,
    skipped,
    results,
  };
  return { text: withWarning(formatReport(json), warning), json };
}

/** Bare steps of several sequences side by side, in the model's own file. */
async function benchBatches(values: Values, onProgress: (line: string) => void) {
  const model = values.model ?? defaultModel();
  const workload = await readWorkload(model);
  const { batch, decode, runs, prefill: [prompt] } = values;
  const context = contextFor(workload, { tokens: prompt + decode });
  const { warning, ...before } = quietness(onProgress);
  const batches: BatchFigures[] = [];
  for (const threads of threadCounts(values)) {
    for (const activations of precisions(values)) {
      batches.push(
        ...await measureBatches({
          ...{ model, workload, threads, activations, sequences: batch },
          ...{ prompt, context, decode, runs, onProgress },
        }),
      );
    }
  }
  const json = {
    ...{ model: baseName(model), workload, machine: describeMachine() },
    ...{ ...before, loadAfter: loadAverage(), prompt, decode, batches },
  };
  return { text: withWarning(formatBatches(batches, { workload }), warning), json };
}

/** Decoding with room for all routed experts and for some of them. */
async function benchPaging(values: Values, onProgress: (line: string) => void) {
  const model = modelPathOf(values.model);
  const workload = await readWorkload(model);
  const { routed } = workload;
  if (routed === undefined) {
    throw new OptionError(
      `cannot bench: --paging has ${
        JSON.stringify(baseName(model))
      }, which has no routed experts, ` +
        "must be a mixture of experts",
    );
  }
  const { resident: shares, memory: memoryBytes, latency: latencyMs, runs, decode } = values;
  const text = values.text === undefined ? undefined : readText(values.text);
  const kinds = await pagingPrompts(model, { text, decode });
  const context = contextFor(workload, { tokens: contextOf(kinds) });
  const { warning, ...before } = quietness(onProgress);
  const server = latencyMs === undefined ? null : serveSlowly({ path: model, latencyMs });
  const paging: PagingFigures[] = [];
  try {
    const settings = pagingSettings({ shares, memoryBytes });
    for (const threads of threadCounts(values)) {
      for (const activations of precisions(values, [DEFAULT_ENGINE_OPTIONS.activations])) {
        paging.push(
          ...await measurePaging({
            ...{ model, url: server?.url, expertBytes: routed.bytes, threads, activations },
            ...{ context, settings, kinds, runs, onProgress },
          }),
        );
      }
    }
  } finally {
    await server?.close();
  }
  const json = {
    ...{ model: baseName(model), workload, machine: describeMachine() },
    ...{ ...before, loadAfter: loadAverage(), latencyMs, paging },
  };
  const experts = routed.layers * routed.experts;
  return { text: withWarning(formatPaging(paging, { experts, latencyMs }), warning), json };
}

/** Layers of routed experts alone. */
async function benchExperts(values: Values, onProgress: (line: string) => void) {
  const { warning, ...before } = quietness(onProgress);
  const types = values.types.length > 0 ? values.types as TensorType[] : DEFAULT_EXPERT_TYPES;
  const experts: ExpertFigures[] = [];
  for (const threads of threadCounts(values)) {
    for (const activations of precisions(values)) {
      experts.push(...await measureExpertKernels({ types, threads, activations, onProgress }));
    }
  }
  const json = { machine: describeMachine(), ...before, loadAfter: loadAverage(), experts };
  return { text: withWarning(formatExpertKernels(experts), warning), json };
}

async function benchKernels(values: Values, onProgress: (line: string) => void) {
  const { warning, loadBefore } = quietness(onProgress);
  const types = values.types.length > 0 ? values.types as TensorType[] : kernelTypes();
  const kernels = [];
  for (const threads of threadCounts(values)) {
    for (const activations of precisions(values)) {
      kernels.push(...await measureKernels({ types, threads, activations, onProgress }));
    }
  }
  const machine = describeMachine();
  const json = { machine, loadBefore, loadAfter: loadAverage(), kernels };
  return { text: withWarning(formatKernels(kernels), warning), json };
}

/** Tokens of context for a prompt with its answer; throws CapacityError where the model has fewer. */
function contextFor({ contextLength }: Workload, { tokens }: { tokens: number }): number {
  // Pages are 64 tokens, and the first token after a prompt needs room too.
  const context = Math.ceil((tokens + 1) / 64) * 64;
  if (context <= contextLength) return context;
  throw new CapacityError(
    `cannot bench: prompts and answers need a context of ${context} tokens, ` +
      `must fit the model's ${contextLength}`,
  );
}

/** The load average before a run, with a warning where others were computing. */
function quietness(onProgress: (line: string) => void) {
  const loadBefore = loadAverage();
  const warning = noiseWarning(loadBefore);
  if (warning !== undefined) onProgress(warning);
  return { loadBefore, warning };
}

function withWarning(text: string, warning: string | undefined): string {
  return warning === undefined ? text : `${text}\n${warning}`;
}

function baseName(path: string): string {
  return path.split("/").at(-1) ?? path;
}

function precisions(
  { activations }: Values,
  usual: readonly ActivationPrecision[] = ["q8", "q16"],
): readonly ActivationPrecision[] {
  return activations.length > 0 ? activations as ActivationPrecision[] : usual;
}

/** A text file; throws OptionError where it cannot be read. */
function readText(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    throw new OptionError(
      `cannot bench: --text cannot be read (${(error as Error).name}), must be the path of a text`,
    );
  }
}

function threadCounts({ threads }: Values): readonly number[] {
  return threads.length > 0 ? threads : [defaultThreads()];
}

function defaultModel(): string {
  const folder = Deno.env.get("SLUICE_MODELS");
  if (folder) return `${folder}/${DEFAULT_MODEL}`;
  throw new OptionError(
    "cannot bench: --model is missing, must be the path of a model " +
      `(or SLUICE_MODELS a folder with ${DEFAULT_MODEL})`,
  );
}

if (import.meta.main) await runCommand(() => main(Deno.args));
