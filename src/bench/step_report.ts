/** Figures of bare steps as text for people. */

import type { HybridPlan, Place } from "../experts/hybrid_plan.ts";
import { formatKernels } from "./kernel_times.ts";
import { percent, quotient, table } from "./report.ts";
import { formatSummary, threeDigits } from "./statistics.ts";
import type { StepBench, StepFigures, StepTraffic } from "./steps.ts";

/** One model on one backend. */
export interface ModelSteps extends StepBench {
  readonly model: string;
  readonly backend: Place;
  readonly activations: string;
  readonly threads: number;
  /** The GPU, where one computes; times on a software adapter say nothing of any GPU. */
  readonly adapter?: { readonly name: string; readonly software: boolean };
  /** What a hybrid was expected to do. */
  readonly plan?: HybridPlan;
}

/** What is printed wherever a software adapter was measured. */
export const SOFTWARE_WARNING =
  "a software adapter computed this: it shows that kernels run, its speeds mean nothing";

export function formatSteps(all: readonly ModelSteps[]): string {
  return all.map(formatModel).join("\n\n");
}

function formatModel(steps: ModelSteps): string {
  const { figures, adapter, plan } = steps;
  const expected = plan !== undefined;
  return [
    describe(steps),
    ...(adapter?.software ? [SOFTWARE_WARNING] : []),
    ...table([
      ["tokens/s", "measured", ...(expected ? ["expected", "measured/expected"] : [])],
      ...figures.map((figure) => [
        nameOf(figure),
        formatSummary(figure.rate),
        ...(expected ? compare(figure, plan) : []),
      ]),
    ]),
    ...figures.flatMap(({ traffic, ...figure }) =>
      traffic === undefined ? [] : [`${nameOf(figure)}: ${describeTraffic(traffic)}`]
    ),
    ...figures.flatMap((figure) =>
      figure.kernels === undefined ? [] : [
        "",
        `${nameOf(figure)}: ${
          threeDigits(figure.kernels.stepSeconds * 1e3)
        } ms a step in kernels, ` +
        "each in a pass of its own",
        formatKernels(figure.kernels),
      ]
    ),
  ].join("\n");
}

function describe(steps: ModelSteps): string {
  const { model, backend, adapter, activations, threads, load, memory } = steps;
  const place = adapter === undefined ? "" : ` on ${adapter.name}`;
  const cores = backend === "webgpu" ? "" : `, ${threads} ${threads === 1 ? "thread" : "threads"}`;
  const giga = (bytes: number) => `${threeDigits(bytes / 1e9)} GB`;
  return `${model}: ${threeDigits(steps.parameters / 1e9)} B parameters, ` +
    `${threeDigits(steps.activeParameters / 1e9)} B active; ` +
    `${backend}${place}, ${activations} activations${cores}; ` +
    `${giga(load.bytes)} loaded in ${threeDigits(load.seconds)} s; ` +
    `${giga(memory.weights)} weights, ${giga(memory.kv)} KV, ${giga(memory.workspace)} workspace`;
}

function describeTraffic({ crossings, waitSeconds, hostSeconds, onDevice }: StepTraffic): string {
  return `a step crosses ${threeDigits(crossings)} times, waits ${
    threeDigits(waitSeconds * 1e3)
  } ms for the GPU, computes ${threeDigits(hostSeconds * 1e3)} ms on the CPU; ` +
    `${percent(onDevice)} of choices on the GPU in layers that lie on both`;
}

function nameOf({ name, count }: Pick<StepFigures, "name" | "count">): string {
  if (name === "prefill") return `prompt of ${count}`;
  return `${count} ${count === 1 ? "sequence" : "sequences"}`;
}

/** What was planned for as many rows. */
function compare({ name, count, rate }: StepFigures, { regimes }: HybridPlan): string[] {
  const regime = regimes.find((regime) => regime.name === name && regime.rows === count);
  const expected = regime?.tokensPerSecond.hybrid ?? undefined;
  const ratio = quotient(rate.median, expected);
  return [
    expected === undefined ? "-" : threeDigits(expected),
    ratio === undefined ? "-" : ratio.toFixed(2),
  ];
}
