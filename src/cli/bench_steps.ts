/** `deno task bench --backend webgpu|hybrid`, and `--made-up`: bare steps, with the kernels' times on a GPU. */

import type { ActivationPrecision } from "../backend/backend.ts";
import { createBackend } from "../backend/create.ts";
import type { HybridBackend } from "../backend/hybrid/mod.ts";
import { findAdapter, nameOf } from "../backend/webgpu/device.ts";
import { Profiler } from "../backend/webgpu/profiler.ts";
import { describeMachine, loadAverage } from "../bench/machine.ts";
import { madeUpModel } from "../bench/made_up_models.ts";
import { formatReport, type Report } from "../bench/report.ts";
import { formatSteps, type ModelSteps } from "../bench/step_report.ts";
import { measureSteps } from "../bench/steps.ts";
import { type GpuKernelFigures, measureGpuKernels } from "../bench/webgpu_kernels.ts";
import { planFor } from "../engine/hybrid_planning.ts";
import { pagesFor } from "../engine/pages.ts";
import { OptionError } from "../errors.ts";
import type { HybridPlan } from "../experts/hybrid_plan.ts";
import { countTrace } from "../experts/routing_counts.ts";
import { openCheckpoint } from "../formats/open.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { compareEngines } from "./bench_engines.ts";
import type { TensorType } from "../quant/types.ts";
import { precisions, quietness, threadCounts, type Values, withWarning } from "./bench_values.ts";
import { modelPathOf } from "./model_path.ts";
import { readTrace } from "./trace_file.ts";

/** What only the CPU's kernels are measured by. */
const CPU_MODES = ["serving", "latent", "paging", "experts", "busy", "steps"] as const;

/** Measures each model with each number of threads and precision. Throws OptionError for flags that don't go together. */
export async function benchSteps(values: Values, onProgress: (line: string) => void) {
  checkFlags(values);
  if (values.kernels) return await benchGpuKernels(values, onProgress);
  const { warning, ...before } = quietness(onProgress);
  const steps: ModelSteps[] = [];
  for (const open of sourcesOf(values)) {
    for (const threads of threadCounts(values)) {
      for (const activations of precisionsOf(values)) {
        const source = await open();
        try {
          steps.push(await benchModel(source, { values, threads, activations, onProgress }));
        } finally {
          source.close();
        }
      }
    }
  }
  const engines = values.peers ? await besidePeers(values, { ...before, onProgress }) : undefined;
  const machine = describeMachine();
  const json = { machine, ...before, loadAfter: loadAverage(), steps, engines };
  const text = [formatSteps(steps), ...(engines === undefined ? [] : [formatReport(engines)])];
  return { text: withWarning(text.join("\n\n"), warning), json };
}

/** Single products on the GPU. */
async function benchGpuKernels(values: Values, onProgress: (line: string) => void) {
  const types = values.types.length > 0 ? values.types as TensorType[] : undefined;
  const lines: string[] = [];
  const kernels: GpuKernelFigures[] = [];
  for (const activations of precisionsOf(values)) {
    const onLine = (line: string) => {
      lines.push(line);
      onProgress(line);
    };
    kernels.push(await measureGpuKernels({ types, activations, onLine }));
  }
  return { text: lines.join("\n"), json: { machine: describeMachine(), kernels } };
}

/** Our engine on the same backend beside other engines, which take files. */
async function besidePeers(
  values: Values,
  options: { loadBefore: number; onProgress: (line: string) => void },
): Promise<Report> {
  const { backend } = values;
  return await compareEngines({
    ...options,
    model: modelPathOf(values.model),
    values,
    activations: precisionsOf(values),
    engine: { backend, gpuBytes: values["gpu-memory"], hybrid: { always: true } },
  });
}

function precisionsOf(values: Values): readonly ActivationPrecision[] {
  return precisions(values, [values.backend === "webgpu" ? "f32" : "q16"]);
}

function sourcesOf(values: Values): (() => Promise<TensorSource>)[] {
  const madeUp = values["made-up"];
  if (madeUp.length === 0) return [() => openCheckpoint(modelPathOf(values.model))];
  return madeUp.map(({ name, type }) => () => Promise.resolve(madeUpModel(name, type)));
}

async function benchModel(
  source: TensorSource,
  { values, threads, activations, onProgress }: {
    values: Values;
    threads: number;
    activations: ActivationPrecision;
    onProgress: (line: string) => void;
  },
): Promise<ModelSteps> {
  const { backend: name, prefill, decode, runs } = values;
  const adapter = name === "wasm" ? null : await findAdapter();
  const timed = name === "webgpu" && adapter?.features.has("timestamp-query") === true;
  const clock = timed ? new Profiler() : undefined;
  const sequences = values.batch.length > 0 ? values.batch : [1];
  const plan = name === "hybrid"
    ? await planOf(source, { values, sequences, threads, activations })
    : undefined;
  const backend = await createBackend({
    ...{ backend: name, threads, activations, profiler: clock, placement: plan?.placement },
    gpuBytes: values["gpu-memory"],
    weightBytes: source.byteLength,
  });
  const { activations: used } = backend;
  const traffic = name === "hybrid" ? () => (backend as HybridBackend).traffic() : undefined;
  const figures = await measureSteps({
    ...{ source, backend, clock, traffic, prefill, sequences, decode, runs, onProgress },
  });
  return {
    ...{ model: source.name, backend: name, activations: used, threads },
    ...(adapter !== null && {
      adapter: { name: nameOf(adapter), software: adapter.info.isFallbackAdapter },
    }),
    ...(plan && { plan }),
    ...figures,
  };
}

/** The placement that the engine would choose, with what it expects of the steps that are measured. */
async function planOf(
  source: TensorSource,
  { values, sequences, threads, activations }: {
    values: Values;
    sequences: readonly number[];
    threads: number;
    activations: ActivationPrecision;
  },
): Promise<HybridPlan> {
  const { prefill, decode, routing } = values;
  const slots = Math.max(...sequences);
  const contextLength = Math.max(...prefill, prefill[0] + decode);
  const chunkTokens = prefill[0];
  return await planFor(source, {
    options: {
      ...{ model: source.name, backend: "hybrid", threads, activations, slots, chunkTokens },
      gpuBytes: values["gpu-memory"],
      hybrid: {
        counts: routing === undefined ? undefined : countTrace(readTrace(routing)),
      },
    },
    sizes: {
      contextLength,
      pages: Math.max(pagesFor(contextLength), slots * pagesFor(prefill[0] + decode)),
      maxRows: Math.max(contextLength, slots),
      logitRows: slots,
    },
  });
}

function checkFlags(values: Values): void {
  const mode = CPU_MODES.find((name) => {
    const value = values[name];
    return typeof value === "boolean" ? value : value.length > 0;
  });
  const which = values.backend === "wasm" ? "--made-up" : `--backend ${values.backend}`;
  if (mode !== undefined) {
    throw new OptionError(
      `cannot bench: --${mode} is given with ${which}, must be left out, since it measures the ` +
        "WASM kernels or a server on them",
    );
  }
  if (values.kernels && values.backend !== "webgpu") {
    throw new OptionError(
      `cannot bench: --kernels is given with ${which}, must be with --backend webgpu or wasm alone`,
    );
  }
  if (values["made-up"].length > 0 && values.model !== undefined) {
    throw new OptionError("cannot bench: --model and --made-up are given, must be one of them");
  }
  if (values["made-up"].length > 0 && values.peers) {
    throw new OptionError(
      "cannot bench: --peers is given with --made-up, must be left out, since other engines take files",
    );
  }
}
