/**
 * What a hybrid plan has to know of a model: layer by layer, what runs before the gate has chosen, what
 * beside the routed experts, and the experts. Derived from an outline, as any plan is.
 */

import { UnsupportedOpError } from "../errors.ts";
import { TENSOR_TYPES, type TensorType } from "../quant/types.ts";
import { type ModelOutline, parametersOf, type Part, type PartKind } from "./outline.ts";
import { partBytes, type Storage } from "./plan_model.ts";

/** Some weights that are used together. */
export interface Weights {
  /** Bytes as the CPU's kernels hold and read them, and as the GPU's do. */
  readonly hostBytes: number;
  readonly deviceBytes: number;
  /** Values, each multiplied once a row. */
  readonly parameters: number;
}

export interface HybridModelLayer {
  /** The layer's number in the model. */
  readonly layer: number;
  /** Attention, norms and gate. */
  readonly before: Weights;
  /** The shared expert, or the feed-forward network of a dense layer. */
  readonly beside: Weights;
  /** Null in a dense layer; `each` is one expert. */
  readonly routed: { readonly count: number; readonly each: Weights } | null;
}

export interface HybridModel {
  readonly name: string;
  readonly hiddenSize: number;
  readonly topK: number;
  readonly layers: readonly HybridModelLayer[];
  /** Of which a row of the table is read. */
  readonly embedding: Weights;
  /** The last norm and the head. */
  readonly head: Weights;
  /** Bytes of a token's keys and values, or latents, in all layers. */
  readonly cacheBytesPerToken: number;
}

export interface HybridModelOptions {
  readonly storage: Storage;
  /** Bytes of a number in the cache. */
  readonly cacheNumberBytes: number;
}

/** Types that are no kernel's are converted to this one. */
const CONVERTED = "Q8_0";

/** The GPU keeps the scales of K types in whole words; Q3_K's bytes grow most. */
const DEVICE_GROWTH = 1.055;

const BEFORE: readonly PartKind[] = ["attention", "norms", "gate"];
const BESIDE: readonly PartKind[] = ["shared experts", "dense feed-forward"];

/** Throws UnsupportedOpError for a model without routed experts. */
export function hybridModelOf(outline: ModelOutline, options: HybridModelOptions): HybridModel {
  const { name, hiddenSize, layers, experts, topK, cache, tied } = outline;
  if (experts === 0) {
    throw new UnsupportedOpError(
      `cannot plan "${name}" for a GPU and the CPU together: it has no routed experts, ` +
        "must be a mixture of experts",
    );
  }
  const main = outline.parts.filter(({ mtp }) => !mtp);
  const weigh = (parts: readonly Part[]) => sumOf(parts.map((part) => weightsOf(part, options)));
  const ofLayer = Map.groupBy(main, ({ layer }) => layer);
  const ends = ofLayer.get(null) ?? [];
  const isTable = ({ kind }: Part) => kind === "embedding";
  return {
    name,
    hiddenSize,
    topK,
    layers: Array.from({ length: layers }, (_, layer) => {
      const parts = ofLayer.get(layer) ?? [];
      const some = (kinds: readonly PartKind[]) =>
        weigh(parts.filter(({ kind }) => kinds.includes(kind)));
      const routed = parts.filter(({ kind }) => kind === "routed experts");
      return {
        layer,
        before: some(BEFORE),
        beside: some(BESIDE),
        routed: routed.length === 0
          ? null
          : { count: experts, each: scaled(weigh(routed), 1 / experts) },
      };
    }),
    // A tied table lies in memory once.
    embedding: tied ? NOTHING : weigh(ends.filter(isTable)),
    head: weigh(tied ? ends : ends.filter((part) => !isTable(part))),
    cacheBytesPerToken: cache.width * layers * options.cacheNumberBytes,
  };
}

/** Sums of attention's segments take at most so much of a GPU, and segments are so long. */
const MOST_SUMS = 96 * 2 ** 20;
const SEGMENT_TOKENS = 512;
/** What kernels hold between their parts, as a share of the model's buffers. */
const KERNEL_SHARE = 0.5;
const SMALL_BUFFERS = 8 * 2 ** 20;

/** About what activations take on the GPU in steps of so many rows, rather too much than too little. */
export function workspaceBytes(
  { parts, hiddenSize, vocabSize, topK }: ModelOutline,
  { rows, logitRows, context }: { rows: number; logitRows: number; context: number },
): number {
  const main = parts.filter(({ mtp, layer }) => !mtp && layer !== null);
  const byLayer = Map.groupBy(main, ({ layer }) => layer).values();
  const widths = [...byLayer].map((layer) =>
    layer.flatMap(({ kind, matrices }) =>
      // Of experts the chosen ones' activations and results.
      matrices.map(({ rows, count }) => rows * (kind === "routed experts" ? topK : count))
    ).reduce((sum, width) => sum + width, 0)
  );
  const buffers = 4 * (rows * Math.max(0, ...widths) + logitRows * vocabSize);
  const sums = rows * 16 * hiddenSize * Math.ceil(context / SEGMENT_TOKENS);
  return Math.round(buffers * (1 + KERNEL_SHARE) + Math.min(MOST_SUMS, sums) + SMALL_BUFFERS);
}

export const NOTHING: Weights = Object.freeze({ hostBytes: 0, deviceBytes: 0, parameters: 0 });

export function sumOf(all: readonly Weights[]): Weights {
  return all.reduce((sum, weights) => ({
    hostBytes: sum.hostBytes + weights.hostBytes,
    deviceBytes: sum.deviceBytes + weights.deviceBytes,
    parameters: sum.parameters + weights.parameters,
  }), NOTHING);
}

function scaled({ hostBytes, deviceBytes, parameters }: Weights, factor: number): Weights {
  return {
    hostBytes: Math.round(hostBytes * factor),
    deviceBytes: Math.round(deviceBytes * factor),
    parameters: parameters * factor,
  };
}

function weightsOf(part: Part, { storage }: HybridModelOptions): Weights {
  const hostBytes = loadedBytes(part, storage);
  return {
    hostBytes,
    deviceBytes: Math.ceil(hostBytes * DEVICE_GROWTH),
    parameters: parametersOf(part),
  };
}

/** Bytes once types without a kernel have become others. */
function loadedBytes(part: Part, storage: Storage): number {
  const bytes = partBytes(part, storage);
  // That is what files' F8_E4M3 becomes.
  if (storage === "F8_E4M3") return bytes;
  const types = storage === "file"
    ? part.bytesByType ?? {}
    : { [storage === "F8" ? "F8_E4M3" : storage]: bytes };
  return Math.round(
    Object.entries(types).reduce((sum, [type, own]) => sum + own * (growthOf(type) - 1), bytes),
  );
}

/** How much larger a type, as files name it, becomes when it is loaded: FP8 gets a factor for 32 bytes. */
function growthOf(type: string): number {
  const valueBytes = (name: TensorType) =>
    TENSOR_TYPES[name].blockBytes / TENSOR_TYPES[name].blockValues;
  if (type === "F8_E4M3") return valueBytes(type);
  const own = Object.hasOwn(TENSOR_TYPES, type) ? type as TensorType : undefined;
  if (own === undefined || TENSOR_TYPES[own].kernel !== null) return 1;
  return valueBytes(CONVERTED) / valueBytes(own);
}
