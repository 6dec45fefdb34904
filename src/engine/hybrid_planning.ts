/**
 * Plans a model for the GPU and the CPU together before it is loaded: its sizes from its own tensors, its
 * cache and workspace as the engine will ask for them, its rates from this machine.
 */

import type { HybridPlacement } from "../backend/hybrid/placement.ts";
import { OptionError } from "../errors.ts";
import { hybridModelOf, workspaceBytes } from "../experts/hybrid_model.ts";
import { type HybridPlan, planHybrid } from "../experts/hybrid_plan.ts";
import type { ModelOutline } from "../experts/outline.ts";
import type { Storage } from "../experts/plan_model.ts";
import { outlineFromTensors } from "../experts/outline_tensors.ts";
import type { LayerCounts } from "../experts/routing_counts.ts";
import type { Rates } from "../experts/step_time.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { readModelConfig } from "../model/registry.ts";
import { TENSOR_TYPES, type TensorType } from "../quant/types.ts";
import { BURST_TOKENS } from "./burst.ts";
import { type HostProbe, measureDevice, measureHost, openTimedDevice } from "./hybrid_rates.ts";
import { DEFAULT_KV_TYPE } from "./limits.ts";
import { cachePageBytes, type Sizing } from "./sizing.ts";
import type { EngineOptions } from "./types.ts";

/** How a model is to be split between the GPU and the CPU, where it is. */
export interface HybridOptions {
  /** Recorded choices of experts, from a trace; without them all are as likely. */
  readonly counts?: readonly LayerCounts[];
  /** Split it even where another backend would be faster. */
  readonly always?: boolean;
  /** Figures to plan with; measured where absent. */
  readonly rates?: Rates;
  /** Where experts lie, instead of a plan. */
  readonly placement?: HybridPlacement;
}

/** Plans the model for the engine that the options describe; throws what `planHybrid` throws, and OptionError. */
export async function planFor(
  source: TensorSource,
  { options, sizes }: { options: EngineOptions; sizes: Sizing },
): Promise<HybridPlan> {
  const { gpuBytes, kvType = DEFAULT_KV_TYPE, slots, chunkTokens, hybrid = {} } = options;
  if (gpuBytes === undefined) {
    throw new OptionError(
      "cannot open the hybrid backend: gpuBytes (--gpu-memory) is missing, must be the size that " +
        "weights, cache and workspace may take on the GPU, which no GPU tells",
    );
  }
  const config = readModelConfig(source);
  const outline = outlineFromTensors(source);
  checkCounts(outline, hybrid.counts);
  const cacheBytes = sizes.pages * cachePageBytes(config, kvType);
  const model = hybridModelOf(outline, {
    storage: "file",
    cacheNumberBytes: NUMBER_BYTES[kvType],
  });
  return planHybrid({
    model,
    counts: hybrid.counts,
    deviceBytes: gpuBytes,
    cacheBytes,
    workspaceBytes: workspaceBytes(outline, {
      rows: sizes.maxRows,
      logitRows: sizes.logitRows,
      context: sizes.contextLength,
    }),
    rates: hybrid.rates ?? await measureRates(hostProbeOf(outline, options)),
    slots,
    chunkTokens,
    stepsPerWait: BURST_TOKENS,
  });
}

const NUMBER_BYTES = { f32: 4, f16: 2, q8: 1.125 } as const;

/** Both sides, one after the other: neither is to disturb the other. */
export async function measureRates(probe: HostProbe): Promise<Rates> {
  const host = await measureHost(probe);
  const timed = await openTimedDevice();
  try {
    return { host, ...await measureDevice(timed) };
  } finally {
    timed.backend.close();
  }
}

/** What to measure the CPU with: the model's own experts, by their type and extents. */
export function hostProbeOf(
  outline: ModelOutline,
  { threads, activations, storage = "file" }:
    & Pick<EngineOptions, "threads" | "activations">
    & { readonly storage?: Storage },
): HostProbe {
  const { matrices, bytesByType = {} } = outline.parts.find(({ kind, mtp }) =>
    kind === "routed experts" && !mtp
  )!;
  const { hiddenSize: hidden, topK } = outline;
  const [{ rows, cols }] = matrices;
  const [main = ""] = Object.entries(bytesByType).sort(([, a], [, b]) => b - a)
    .map(([type]) => type);
  const type = loadedType(storage === "file" ? main : storage);
  const intermediate = cols === hidden ? rows : cols;
  return { type, hidden, intermediate, topK, threads, activations };
}

/** The type that kernels read where a file has this one. */
function loadedType(name: string): TensorType {
  if (name === "F8") return "F8_E4M3";
  const known = Object.hasOwn(TENSOR_TYPES, name) && TENSOR_TYPES[name as TensorType].kernel;
  return known ? name as TensorType : "Q8_0";
}

/** A trace of another model would choose residents by chance. */
function checkCounts(outline: ModelOutline, counts: readonly LayerCounts[] | undefined): void {
  if (counts === undefined) return;
  const routed = outline.parts
    .filter(({ kind, mtp }) => kind === "routed experts" && !mtp)
    .map(({ layer }) => layer!)
    .sort((a, b) => a - b);
  const is = counts.map(({ layer, counts }) => `${layer}: ${counts.length}`).join(", ");
  const must = routed.map((layer) => `${layer}: ${outline.experts}`).join(", ");
  if (is === must) return;
  throw new OptionError(
    `cannot use the recorded routing (--routing): it has layers with experts ${is}, ` +
      `must be of this model, which has ${must}`,
  );
}

/** Throws OptionError where something else is faster than the plan, unless it was asked for anyway. */
export function checkWorthwhile(plan: HybridPlan, { always = false }: HybridOptions): void {
  const { best, seconds } = plan.verdict;
  if (best === "hybrid" || always) return;
  const told = [...plan.regimes].map(({ name, rows, tokensPerSecond }) => {
    const [own, other] = [tokensPerSecond.hybrid!, tokensPerSecond[best]!];
    return `${name} of ${rows} ${digits(own)} instead of ${digits(other)} tokens/s`;
  });
  const waits = plan.crossings / 2;
  const what = `${describeLoad(plan.verdict)} would take ${digits(seconds.hybrid!)} s ` +
    `instead of ${digits(seconds[best]!)} s with --backend ${best}`;
  throw new OptionError(
    `cannot open the hybrid backend: ${what} (${told.join(", ")}; ${waits} ` +
      `${waits === 1 ? "wait" : "waits"} of ${
        digits(plan.rates.crossingSeconds * 1000)
      } ms a step), must be faster, ` +
      `or asked for with --hybrid always; use --backend ${best}`,
  );
}

/** `16 answers of 128 tokens to prompts of 512` */
export function describeLoad({ sequences, load }: HybridPlan["verdict"]): string {
  const { promptTokens, answerTokens } = load;
  return sequences === 1
    ? `an answer of ${answerTokens} tokens to a prompt of ${promptTokens}`
    : `${sequences} answers of ${answerTokens} tokens to prompts of ${promptTokens}`;
}

/** Three significant digits at most. */
function digits(value: number): string {
  return value >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
}
