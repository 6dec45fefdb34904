/**
 * The plan of a model that lies on a GPU and on the CPU: which routed experts are on the GPU, what each
 * side holds, what crosses between them, how fast that would be, and whether it is worth it. Counts,
 * sizes and rates in, plain data out.
 */

import type { HybridPlacement } from "../backend/hybrid/placement.ts";
import { CapacityError } from "../errors.ts";
import { type HybridModel, sumOf } from "./hybrid_model.ts";
import { chooseResidents, mostWholeLayers, type ResidentLayer } from "./residents.ts";
import { choiceProbabilities, type LayerCounts } from "./routing_counts.ts";
import {
  crossingLayers,
  deviceStep,
  hostStep,
  type HybridStep,
  hybridStep,
  type LayerExperts,
  type Rates,
  type StepShape,
} from "./step_time.ts";

export interface HybridPlanOptions {
  readonly model: HybridModel;
  /** Recorded choices; layers that are missing, or all, are taken to choose evenly. */
  readonly counts?: readonly LayerCounts[];
  /** Bytes that everything may take on the GPU. */
  readonly deviceBytes: number;
  /** Bytes that weights may take on the CPU; unlimited where absent. */
  readonly hostBytes?: number;
  /** Bytes of the cache and of activations, both on the GPU. */
  readonly cacheBytes: number;
  readonly workspaceBytes: number;
  readonly rates: Rates;
  /** Sequences that are answered side by side, and prompt tokens of a step. */
  readonly slots: number;
  readonly chunkTokens: number;
  /** Steps that a GPU alone runs before the host waits for it. */
  readonly stepsPerWait: number;
  /** What is weighed against each other; a usual conversation where absent. */
  readonly load?: Conversation;
}

/** What every slot is asked at once. */
export interface Conversation {
  readonly promptTokens: number;
  readonly answerTokens: number;
}

/** Where a model may run. */
export type Place = "hybrid" | "wasm" | "webgpu";

/** Tokens a second of one way to use a model; null where the GPU is too small for all of it. */
export interface Regime {
  readonly name: "decode" | "prefill";
  /** Rows of a step. */
  readonly rows: number;
  readonly tokensPerSecond: Readonly<Record<Place, number | null>>;
  /** Of a hybrid step. */
  readonly step: HybridStep;
}

export interface HybridPlan {
  readonly placement: HybridPlacement;
  /** Whether recorded routing was there, for all layers. */
  readonly recorded: boolean;
  readonly experts: {
    readonly resident: number;
    readonly all: number;
    /** The share of choices that resident ones are expected to get. */
    readonly chosen: number;
  };
  /** Layers with routed experts, and those whose experts are all on the GPU. */
  readonly layers: { readonly routed: number; readonly whole: number };
  readonly device: {
    readonly budget: number;
    /** What every token needs, embedding and head included. */
    readonly always: number;
    readonly experts: number;
    readonly cache: number;
    readonly workspace: number;
  };
  /** Bytes on the CPU: all experts of layers that are not whole, so that any may leave the GPU at once. */
  readonly host: number;
  /** A step goes to the host and back so often, counted together. */
  readonly crossings: number;
  /** Bytes that cross for each token. */
  readonly movedPerToken: number;
  readonly rates: Rates;
  readonly regimes: readonly Regime[];
  readonly verdict: Verdict;
}

export interface Verdict {
  readonly best: Place;
  /** Answers side by side, and what each is asked. */
  readonly sequences: number;
  readonly load: Conversation;
  /** Seconds that all of it takes; null where the GPU is too small. */
  readonly seconds: Readonly<Record<Place, number | null>>;
}

/** A question with its context, and an answer of some length. */
const USUAL_LOAD: Conversation = Object.freeze({ promptTokens: 512, answerTokens: 128 });

/** What crosses for a row: its normed state and its sum of experts in float32, an id and a weight a choice. */
const STATE_CROSSINGS = 2;
const FLOAT_BYTES = 4;
const CHOICE_BYTES = 8;

/** Throws CapacityError where what every token needs does not fit the GPU, or the rest the CPU. */
export function planHybrid(options: HybridPlanOptions): HybridPlan {
  const { model, counts = [], rates, load = USUAL_LOAD } = options;
  const { cacheBytes, workspaceBytes, deviceBytes } = options;
  const layers = routedLayers(model, counts);
  const always = alwaysBytes(model);
  const budgetBytes = deviceBytes - always - cacheBytes - workspaceBytes;
  if (budgetBytes < 0) {
    throw new CapacityError(
      `cannot use the GPU for "${model.name}": what every token needs takes ${always} bytes, ` +
        `its cache ${cacheBytes} and activations ${workspaceBytes}, ` +
        `must be at most the ${deviceBytes} of --gpu-memory together`,
    );
  }
  const { placement, experts } = bestPlacement({ ...options, load, layers, budgetBytes });
  const bytes = expertBytes(model, experts);
  const { hostBytes = Infinity } = options;
  if (bytes.host > hostBytes) {
    throw new CapacityError(
      `cannot put "${model.name}" on the GPU and the CPU: experts of layers that don't fit the GPU ` +
        `as a whole take ${bytes.host} bytes, must be at most ${hostBytes}`,
    );
  }
  const fits = bytes.all <= budgetBytes;
  const crossing = crossingLayers(experts);
  const all = layers.reduce((sum, { probabilities }) => sum + probabilities.length, 0);
  const rowBytes = STATE_CROSSINGS * model.hiddenSize * FLOAT_BYTES + model.topK * CHOICE_BYTES;
  return {
    placement,
    recorded: layers.every(({ layer }) => counts.some((counted) => counted.layer === layer)),
    experts: {
      resident: placement.layers.reduce((sum, { resident }) => sum + resident.length, 0),
      all,
      chosen: residentShare(experts),
    },
    layers: { routed: layers.length, whole: layers.length - crossing },
    device: {
      budget: deviceBytes,
      always,
      experts: bytes.device,
      cache: cacheBytes,
      workspace: workspaceBytes,
    },
    host: bytes.host,
    crossings: 2 * crossing,
    movedPerToken: crossing * rowBytes,
    rates,
    regimes: regimesOf({ ...options, load, experts, fits }),
    verdict: weigh({ ...options, load, experts, fits }),
  };
}

type Weighed = HybridPlanOptions & {
  readonly load: Conversation;
  readonly experts: ReadonlyMap<number, LayerExperts>;
  /** Everything fits the GPU. */
  readonly fits: boolean;
};

function routedLayers(model: HybridModel, counts: readonly LayerCounts[]): ResidentLayer[] {
  return model.layers.flatMap(({ layer, routed }) => {
    if (routed === null) return [];
    const own = counts.find((counted) => counted.layer === layer)?.counts;
    const { count, each } = routed;
    const probabilities = choiceProbabilities({ experts: count, topK: model.topK, counts: own });
    return [{ layer, expertBytes: each.deviceBytes, probabilities }];
  });
}

/** Of placements with some layers whole and the rest by heat, the one with which a load takes least. */
function bestPlacement(
  options: HybridPlanOptions & {
    readonly load: Conversation;
    readonly layers: readonly ResidentLayer[];
    readonly budgetBytes: number;
  },
) {
  const { layers, budgetBytes } = options;
  const most = mostWholeLayers({ layers, budgetBytes });
  let best: { placement: HybridPlacement; experts: Weighed["experts"]; seconds: number } | null =
    null;
  for (let wholeLayers = 0; wholeLayers <= most; wholeLayers++) {
    const placement = chooseResidents({ layers, budgetBytes, wholeLayers });
    const experts = new Map(placement.layers.map(({ layer, resident }, i): [
      number,
      LayerExperts,
    ] => [layer, { probabilities: layers[i].probabilities, resident: new Set(resident) }]));
    const seconds = loadSeconds({ ...options, experts, fits: false }, "hybrid")!;
    if (best === null || seconds < best.seconds) best = { placement, experts, seconds };
  }
  return best!;
}

function alwaysBytes({ layers, embedding, head }: HybridModel): number {
  const parts = layers.flatMap(({ before, beside }) => [before, beside]);
  return sumOf([...parts, embedding, head]).deviceBytes;
}

function expertBytes({ layers }: HybridModel, experts: Weighed["experts"]) {
  let [device, host, all] = [0, 0, 0];
  for (const { layer, routed } of layers) {
    if (routed === null) continue;
    const resident = experts.get(layer)?.resident.size ?? 0;
    device += resident * routed.each.deviceBytes;
    if (resident < routed.count) host += routed.count * routed.each.hostBytes;
    all += routed.count * routed.each.deviceBytes;
  }
  return { device, host, all };
}

/** The expected share of all choices. */
function residentShare(experts: Weighed["experts"]): number {
  let [resident, all] = [0, 0];
  for (const layer of experts.values()) {
    for (let id = 0; id < layer.probabilities.length; id++) {
      all += layer.probabilities[id];
      if (layer.resident.has(id)) resident += layer.probabilities[id];
    }
  }
  return all === 0 ? 0 : resident / all;
}

function regimesOf(options: Weighed): Regime[] {
  const { slots, chunkTokens } = options;
  const decodes = slots === 1 ? [1] : [1, slots];
  return [
    ...decodes.map((rows) => regimeOf(options, "decode", decodeShape(options, rows))),
    regimeOf(options, "prefill", prefillShape(options, chunkTokens)),
  ];
}

function regimeOf(options: Weighed, name: Regime["name"], shape: StepShape): Regime {
  const { model, rates, experts } = options;
  const rate = (place: Place) => {
    const seconds = stepSeconds(options, { shape, place });
    return seconds === null ? null : shape.rows / seconds;
  };
  return {
    name,
    rows: shape.rows,
    tokensPerSecond: { hybrid: rate("hybrid"), wasm: rate("wasm"), webgpu: rate("webgpu") },
    step: hybridStep(model, { shape, rates, experts }),
  };
}

/** A token of each sequence, in the middle of its answer. */
function decodeShape({ load }: Pick<Weighed, "load">, sequences: number): StepShape {
  const cached = load.promptTokens + Math.round(load.answerTokens / 2);
  return { rows: sequences, logitRows: sequences, cachedTokens: sequences * cached };
}

/** A part of a prompt, half of which lies before it. */
function prefillShape({ load }: Pick<Weighed, "load">, rows: number): StepShape {
  return { rows, logitRows: 0, cachedTokens: Math.round(load.promptTokens / 2) };
}

function stepSeconds(
  options: Weighed,
  { shape, place }: { shape: StepShape; place: Place },
): number | null {
  const { model, rates, experts, fits, stepsPerWait } = options;
  const step = { shape, rates, experts };
  if (place === "hybrid") return hybridStep(model, step).seconds;
  if (place === "wasm") return hostStep(model, step);
  if (!fits) return null;
  // A prompt's steps are waited for, each.
  const waits = shape.logitRows === 0 ? 1 : stepsPerWait;
  return deviceStep(model, { ...step, stepsPerWait: waits });
}

/** Seconds until every slot has its answer. */
function loadSeconds(options: Weighed, place: Place): number | null {
  const { slots, chunkTokens, load } = options;
  const chunk = Math.min(chunkTokens, slots * load.promptTokens);
  const prefill = stepSeconds(options, { shape: prefillShape(options, chunk), place });
  const decode = stepSeconds(options, { shape: decodeShape(options, slots), place });
  if (prefill === null || decode === null) return null;
  return slots * load.promptTokens / chunk * prefill + load.answerTokens * decode;
}

function weigh(options: Weighed): Verdict {
  const seconds = {
    hybrid: loadSeconds(options, "hybrid"),
    wasm: loadSeconds(options, "wasm"),
    webgpu: loadSeconds(options, "webgpu"),
  };
  // Of equals the simpler one.
  const order: readonly Place[] = ["wasm", "webgpu", "hybrid"];
  const best = order.reduce((best, place) =>
    (seconds[place] ?? Infinity) < (seconds[best] ?? Infinity) ? place : best
  );
  return { best, sequences: options.slots, load: options.load, seconds };
}
