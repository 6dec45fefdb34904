/**
 * `deno task bench`: how fast a model runs here, beside what the machine could do and beside other
 * engines. The last line of standard output is one JSON object. docs/performance.md says how to read it.
 */

import { type BatchFigures, formatBatches, measureBatches } from "../bench/batch.ts";
import {
  type ExpertFigures,
  formatExpertKernels,
  measureExpertKernels,
} from "../bench/expert_kernels.ts";
import { formatKernels, kernelTypes, measureKernels } from "../bench/kernels.ts";
import {
  formatLatentForms,
  type LatentFigures,
  measureLatentForms,
} from "../bench/latent_forms.ts";
import { describeMachine, loadAverage } from "../bench/machine.ts";
import { formatReport } from "../bench/report.ts";
import {
  formatPaging,
  measurePaging,
  type PagingFigures,
  pagingSettings,
} from "../bench/paging.ts";
import { contextOf, pagingPrompts } from "../bench/paging_prompts.ts";
import { serveSlowly } from "../bench/slow_server.ts";
import { readWorkload } from "../bench/workload.ts";
import { OptionError } from "../errors.ts";
import type { TensorType } from "../quant/types.ts";
import { DEFAULT_ENGINE_OPTIONS } from "../text/load.ts";
import { BENCH_FLAGS } from "./bench_flags.ts";
import { compareEngines } from "./bench_engines.ts";
import { benchServing } from "./bench_serving.ts";
import { benchSteps } from "./bench_steps.ts";
import {
  baseName,
  contextFor,
  defaultModel,
  precisions,
  quietness,
  readText,
  threadCounts,
  type Values,
  withWarning,
} from "./bench_values.ts";
import { helpText, parseFlags } from "./flags.ts";
import { modelPathOf } from "./model_path.ts";
import { EXIT_FAILURE, runCommand, type Terminal, write } from "./terminal.ts";

const DEFAULT_EXPERT_TYPES: readonly TensorType[] = ["Q8_0", "Q4_K"];

const ABOUT =
  "Measures prefill and decode apart, with medians (and ranges) of several runs; engines\n" +
  "take turns, each in a process of its own. The last line is one JSON object.";

/** What a bench has measured, for people and for machines. */
interface Measured {
  readonly text: string;
  readonly json: unknown;
  /** Something that was asked for could not be measured; `text` and `json` say what. */
  readonly failed?: boolean;
}

/**
 * Runs the command and returns its exit code: 1 where a part of `--serving` failed. Throws OptionError
 * for wrong flags and the loader's errors.
 */
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
  const bench: (values: Values, onProgress: (line: string) => void) => Promise<Measured> =
    values.backend !== "wasm" || values["made-up"].length > 0
      ? benchSteps
      : values.serving.length > 0
      ? benchServing
      : values.kernels
      ? benchKernels
      : values.latent
      ? benchLatent
      : values.paging
      ? benchPaging
      : values.experts
      ? benchExperts
      : values.batch.length > 0
      ? benchBatches
      : benchModel;
  const { text, json, failed = false } = await bench(values, onProgress);
  if (!values.json) write(stdout, `${text}\n\n`);
  write(stdout, `${JSON.stringify(json)}\n`);
  return failed ? EXIT_FAILURE : 0;
}

async function benchModel(values: Values, onProgress: (line: string) => void) {
  const model = values.model ?? defaultModel();
  const { warning, loadBefore } = quietness(onProgress);
  const activations = precisions(values);
  const json = await compareEngines({ model, values, activations, loadBefore, onProgress });
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

/** Latent attention alone, absorbed and expanded. */
async function benchLatent(values: Values, onProgress: (line: string) => void) {
  const { warning, ...before } = quietness(onProgress);
  const latent: LatentFigures[] = [];
  for (const threads of threadCounts(values)) {
    for (const activations of precisions(values, [DEFAULT_ENGINE_OPTIONS.activations])) {
      const { runs } = values;
      latent.push(...await measureLatentForms({ threads, activations, runs, onProgress }));
    }
  }
  const json = { machine: describeMachine(), ...before, loadAfter: loadAverage(), latent };
  return { text: withWarning(formatLatentForms(latent), warning), json };
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

if (import.meta.main) await runCommand(() => main(Deno.args));
