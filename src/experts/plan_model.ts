/**
 * What a model takes, counted from its outline: parameters, bytes of weights and cache, bytes read for
 * a token, and how much of it fits into a memory. Counts and divisions; nothing is measured here.
 */

import { OptionError } from "../errors.ts";
import { TENSOR_TYPES, type TensorType } from "../quant/types.ts";
import {
  type Matrices,
  type ModelOutline,
  parametersOf,
  type Part,
  PART_KINDS,
  type PartKind,
} from "./outline.ts";
import { BANK_WEIGHT_BYTES, type Placement, placeWeights } from "./placement.ts";

/** A way to store the weights: a type for all matrices, DeepSeek's FP8, or as the file has them. */
export type Storage = TensorType | "F8" | "file";

export interface PlanOptions {
  readonly storages: readonly Storage[];
  /** Tokens in the cache. */
  readonly context: number;
  /** Bytes a second that memory gives. */
  readonly bandwidth?: number;
  /** Bytes for weights and cache together. */
  readonly memoryBytes?: number;
  /** Bytes of one WASM memory; the most there can be where absent. */
  readonly bankBytes?: number;
}

/** Parameters, under each way of counting that is in use. */
export interface ParameterCounts {
  readonly byKind: readonly {
    readonly kind: PartKind;
    readonly total: number;
    readonly active: number;
  }[];
  /** The main model: everything but the multi-token prediction module. */
  readonly total: number;
  /** What a token passes through: of the embedding the one row that it reads, unless it is the head. */
  readonly active: number;
  /** The same with the embedding table counted whole. */
  readonly activeWithTable: number;
  readonly totalWithoutEmbeddings: number;
  /** Without the embedding and without the head. */
  readonly activeWithoutEmbeddings: number;
  readonly mtp: {
    /** The module's own parameters, and those a token passes through in it. */
    readonly own: number;
    readonly active: number;
    /** Its copies of the embedding and the head in published files. */
    readonly copies: number;
  } | null;
}

export interface CachePlan {
  readonly latent: boolean;
  /** Numbers a token and layer, as they are kept, and as plain multi-head attention would. */
  readonly width: number;
  readonly plainWidth: number;
  /** Bytes a token in all layers; the cache is float32. */
  readonly bytesPerToken: number;
  readonly plainBytesPerToken: number;
  readonly bytesAtContext: number;
}

/** How the weights lie in a limited memory. */
export interface MemoryPlan {
  /** Weights that every token needs, with the cache at the planned context. */
  readonly fixedBytes: number;
  /** What `fixedBytes` exceeds the memory by; 0 where it fits. */
  readonly missingBytes: number;
  readonly expertsResident: number;
  readonly expertsTotal: number;
  /** expertsResident / expertsTotal; null without experts. */
  readonly share: number | null;
  /** Bytes read from the file a token if any resident expert were as likely chosen as any other. */
  readonly pagedPerToken: number;
}

export interface StoragePlan {
  readonly storage: Storage;
  readonly weightBytes: number;
  /** All matrices of one expert of one layer; 0 in a dense model. */
  readonly expertBytes: number;
  /** What decoding one token reads: weights it passes through, and the cache at the context. */
  readonly readPerToken: { readonly weights: number; readonly cache: number };
  /** Tokens a second that the bandwidth allows at most; null where none is given. */
  readonly tokensPerSecond: number | null;
  /** Banks that hold all weights. */
  readonly banks: number;
  readonly memory: MemoryPlan | null;
}

export interface ModelPlan {
  readonly outline: Omit<ModelOutline, "parts">;
  readonly parameters: ParameterCounts;
  readonly context: number;
  readonly cache: CachePlan;
  readonly storages: readonly StoragePlan[];
}

/** Bytes of a number in the cache. */
const CACHE_NUMBER_BYTES = 4;

/** Side of the squares of FP8 weights that share a scale (DeepSeek-V3, section 3.3.2). */
const F8_BLOCK = 128;

/** Plans the model. Throws OptionError where "file" is asked of an outline without bytes. */
export function planModel(outline: ModelOutline, options: PlanOptions): ModelPlan {
  const { parts: _parts, ...facts } = outline;
  return {
    outline: facts,
    parameters: countParameters(outline),
    context: options.context,
    cache: planCache(outline, options.context),
    storages: options.storages.map((storage) => planStorage(outline, { ...options, storage })),
  };
}

/** Counts the parameters. A routed part is active by the share of its experts that a token takes. */
export function countParameters(outline: ModelOutline): ParameterCounts {
  const main = outline.parts.filter(({ mtp }) => !mtp);
  const module = outline.parts.filter(({ mtp }) => mtp);
  const isEnd = ({ kind }: Part) => kind === "embedding" || kind === "head";
  const own = module.filter((part) => !isEnd(part));
  const active = (parts: readonly Part[]) =>
    sum(parts, (part) => parametersOf(part) * activeShare(outline, part));
  const total = sum(main, parametersOf);
  const embedding = main.filter(({ kind }) => kind === "embedding");
  const ends = main.filter(isEnd);
  return {
    byKind: PART_KINDS.map((kind) => main.filter((part) => part.kind === kind))
      .filter((parts) => parts.length > 0)
      .map((parts) => ({
        kind: parts[0].kind,
        total: sum(parts, parametersOf),
        active: active(parts),
      })),
    total,
    active: active(main),
    activeWithTable: active(main) - active(embedding) + sum(embedding, parametersOf),
    totalWithoutEmbeddings: total - sum(ends, parametersOf),
    activeWithoutEmbeddings: active(main) - active(ends),
    mtp: module.length === 0 ? null : {
      own: sum(own, parametersOf),
      active: active(own),
      copies: sum(module.filter(isEnd), parametersOf),
    },
  };
}

function planCache({ cache, layers }: ModelOutline, context: number): CachePlan {
  const bytes = (width: number) => width * layers * CACHE_NUMBER_BYTES;
  return {
    ...cache,
    bytesPerToken: bytes(cache.width),
    plainBytesPerToken: bytes(cache.plainWidth),
    bytesAtContext: bytes(cache.width) * context,
  };
}

function planStorage(
  outline: ModelOutline,
  options: PlanOptions & { storage: Storage },
): StoragePlan {
  const { storage, context, bandwidth, memoryBytes, bankBytes = BANK_WEIGHT_BYTES } = options;
  const main = outline.parts.filter(({ mtp }) => !mtp);
  const bytes = (part: Part) => partBytes(part, storage);
  const cacheBytes = planCache(outline, context).bytesAtContext;
  const read = sum(main, (part) => bytes(part) * activeShare(outline, part));
  const readPerToken = { weights: Math.round(read), cache: cacheBytes };
  const perToken = readPerToken.weights + readPerToken.cache;
  const request = placementItems(outline, storage);
  const expertBytes = request.experts.reduce((most, { bytes }) => Math.max(most, bytes), 0);
  return {
    storage,
    weightBytes: sum(main, bytes),
    expertBytes,
    readPerToken,
    tokensPerSecond: bandwidth === undefined ? null : bandwidth / perToken,
    banks: placeWeights({ bankBytes, ...request }).banks.length,
    memory: memoryBytes === undefined
      ? null
      : planMemory({ outline, storage, memoryBytes, bankBytes, cacheBytes }),
  };
}

function planMemory(
  options: {
    outline: ModelOutline;
    storage: Storage;
    memoryBytes: number;
    bankBytes: number;
    cacheBytes: number;
  },
): MemoryPlan {
  const { outline, storage, memoryBytes, bankBytes, cacheBytes } = options;
  const items = placementItems(outline, storage);
  const fixedBytes = cacheBytes + sum(items.fixed, ({ bytes }) => bytes);
  const expertsTotal = items.experts.length;
  const smallest = items.experts.reduce((most, { bytes }) => Math.max(most, bytes), 0);
  const missingBytes = Math.max(0, fixedBytes + smallest - memoryBytes);
  let expertsResident = 0;
  if (missingBytes === 0) {
    const weights = memoryBytes - cacheBytes;
    expertsResident = residentExperts(placeWeights({ bankBytes, ...items, memoryBytes: weights }));
  }
  const share = expertsTotal === 0 ? null : expertsResident / expertsTotal;
  const routed = outline.parts.filter(({ kind, mtp }) => kind === "routed experts" && !mtp);
  const chosen = sum(routed, (part) => partBytes(part, storage) * activeShare(outline, part));
  return {
    fixedBytes,
    missingBytes,
    expertsResident,
    expertsTotal,
    share,
    pagedPerToken: Math.round(chosen * (1 - (share ?? 1))),
  };
}

/** Experts that are in memory under a placement: those with a place, or as many as there are slots. */
export function residentExperts({ entries, banks }: Placement): number {
  const placed = sum(entries, ({ experts, bank }) => bank === null ? 0 : experts?.count ?? 0);
  return placed + sum(banks, ({ slots }) => slots);
}

/** What there is to place: one fixed item a part, the routed parts expert by expert. */
export function placementItems(outline: ModelOutline, storage: Storage) {
  const fixed: { layer: number; bytes: number }[] = [];
  const experts: { layer: number; expert: number; bytes: number }[] = [];
  for (const part of outline.parts) {
    if (part.mtp) continue;
    const bytes = partBytes(part, storage);
    // The embedding comes before the first layer, the last norm and the head after the last.
    const layer = part.layer ?? (part.kind === "embedding" ? -1 : outline.layers);
    if (part.kind !== "routed experts") fixed.push({ layer, bytes });
    else {
      const each = Math.ceil(bytes / outline.experts);
      for (let expert = 0; expert < outline.experts; expert++) {
        experts.push({ layer, expert, bytes: each });
      }
    }
  }
  return { fixed, experts };
}

/** The share of a part's weights that one token uses. */
function activeShare(outline: ModelOutline, { kind }: Part): number {
  if (kind === "routed experts") return outline.topK / outline.experts;
  // A tied table is read whole, as the head.
  return kind === "embedding" && !outline.tied ? 1 / outline.vocabSize : 1;
}

/**
 * Bytes of a part. Norms, biases and the gate are float32 whatever the rest is; with F8 the embedding
 * and the head are BF16, as DeepSeek publishes them.
 */
export function partBytes(part: Part, storage: Storage): number {
  if (storage === "file") {
    if (part.bytes === undefined) {
      throw new OptionError(
        'cannot plan a model: the storage is "file", must be a type where there are no tensors',
      );
    }
    return part.bytes;
  }
  const { kind, matrices, vectors } = part;
  const ends = kind === "embedding" || kind === "head";
  const own = kind === "gate" ? "F32" : ends && storage === "F8" ? "BF16" : storage;
  return sum(matrices, (matrix) => matrixBytes(matrix, own)) + vectors * 4;
}

function matrixBytes({ rows, cols, count }: Matrices, storage: TensorType | "F8"): number {
  if (storage === "F8") {
    const scales = Math.ceil(rows / F8_BLOCK) * Math.ceil(cols / F8_BLOCK);
    return count * (rows * cols + scales * 4);
  }
  // Rows that are no whole blocks are stored with smaller ones.
  const fits = (type: TensorType) => cols % TENSOR_TYPES[type].blockValues === 0;
  const type = [storage, "Q8_0" as const, "F16" as const].find(fits) as TensorType;
  const { blockValues, blockBytes } = TENSOR_TYPES[type];
  return count * rows * (cols / blockValues) * blockBytes;
}

function sum<T>(items: readonly T[], value: (item: T) => number): number {
  return items.reduce((total, item) => total + value(item), 0);
}
