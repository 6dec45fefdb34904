/** `deno task bench` of a model in engines, ours and others, each in a process of its own. */

import type { ActivationPrecision } from "../backend/backend.ts";
import { chooseEngines } from "../bench/engines.ts";
import { describeMachine, loadAverage } from "../bench/machine.ts";
import { measure } from "../bench/measure.ts";
import { interpret, type Report, type ThreadReport } from "../bench/report.ts";
import { readWorkload } from "../bench/workload.ts";
import type { EngineOptions } from "../engine/types.ts";
import { baseName, contextFor, threadCounts, type Values } from "./bench_values.ts";

export interface EnginesBench {
  readonly model: string;
  readonly values: Values;
  readonly activations: readonly ActivationPrecision[];
  /** What of our engine's options differs from the defaults. */
  readonly engine?: Partial<EngineOptions>;
  readonly loadBefore: number;
  readonly onProgress: (line: string) => void;
}

/** Measures the engines by turns, with each number of threads. */
export async function compareEngines(options: EnginesBench): Promise<Report> {
  const { model, values, activations, engine, loadBefore, onProgress } = options;
  const workload = await readWorkload(model);
  const { prefill, decode, runs } = values;
  const longest = Math.max(...prefill, prefill[0] + decode);
  const { engines, skipped } = chooseEngines({
    model,
    context: contextFor(workload, { tokens: longest }),
    activations,
    engine,
    steps: values.steps,
    peers: values.peers,
    llamaPython: values["llama-python"],
    nodeLlama: values["node-llama"],
    wllama: values.wllama,
  });
  const results: ThreadReport[] = [];
  for (const threads of threadCounts(values)) {
    const figures = await measure({
      ...{ engines, threads, workload, prefill, decode, runs, onProgress },
      busy: values.busy && threads > 1,
    });
    results.push(interpret(figures, { workload }));
  }
  return {
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
}
