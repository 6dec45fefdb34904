/** What the backend holds on the GPU, and the way back from the seam's handles. */

import { foreign } from "../op_checks.ts";
import type { Buffer, Experts, KvCache, LatentCache, ModelCache, Weight } from "../backend.ts";
import type { PlaneBytes, WeightFormat } from "./weights/format.ts";

export class GpuBuffer implements Buffer {
  readonly kind: Buffer["kind"];
  readonly rows: number;
  readonly width: number;
  readonly memory: GPUBuffer;

  constructor(shape: Buffer, memory: GPUBuffer) {
    this.kind = shape.kind;
    this.rows = shape.rows;
    this.width = shape.width;
    this.memory = memory;
  }
}

/** Some rows of a matrix in a buffer of their own: planes one behind the other. */
export interface WeightPart {
  readonly memory: GPUBuffer;
  readonly firstRow: number;
  readonly rows: number;
  readonly planes: PlaneBytes;
}

/** A matrix in its own format. It has several parts where it is larger than a kernel can see. */
export class GpuWeight implements Weight {
  readonly name: string;
  readonly type: Weight["type"];
  readonly rows: number;
  readonly cols: number;
  readonly format: WeightFormat;
  readonly parts: readonly WeightPart[];

  constructor(
    shape: Pick<Weight, "name" | "type" | "rows" | "cols">,
    format: WeightFormat,
    parts: readonly WeightPart[],
  ) {
    this.name = shape.name;
    this.type = shape.type;
    this.rows = shape.rows;
    this.cols = shape.cols;
    this.format = format;
    this.parts = parts;
  }

  get byteLength(): number {
    return this.parts.reduce((sum, { memory }) => sum + memory.size, 0);
  }
}

/** One layer's experts: each matrix of all experts stacked, `[count * rows, cols]`. */
export class GpuExperts implements Experts {
  readonly layer: number;
  readonly count: number;
  readonly hidden: number;
  readonly intermediate: number;
  /** `[count * intermediate, hidden]` */
  readonly gate: GpuWeight;
  readonly up: GpuWeight;
  /** `[count * hidden, intermediate]` */
  readonly down: GpuWeight;
  /** `[2 * count, intermediate]`, those of gates first, and `[count, hidden]` */
  readonly biases: { readonly gateUp: GpuWeight; readonly down: GpuWeight } | null;

  constructor(options: Omit<GpuExperts, "byteLength">) {
    this.layer = options.layer;
    this.count = options.count;
    this.hidden = options.hidden;
    this.intermediate = options.intermediate;
    this.gate = options.gate;
    this.up = options.up;
    this.down = options.down;
    this.biases = options.biases;
  }

  get byteLength(): number {
    const all = [this.gate, this.up, this.down, ...Object.values(this.biases ?? {})];
    return all.reduce((sum, { byteLength }) => sum + byteLength, 0);
  }
}

/** An array that a layer keeps tokens in: page after page, token after token. */
export interface TokenArray {
  readonly memory: GPUBuffer;
  /** Its first byte in `memory`, a multiple of sixteen. */
  readonly offset: number;
  /** Bytes of one token, a multiple of four. */
  readonly tokenBytes: number;
}

/**
 * Arrays of a layer of a cache. Numbers of a head (or a latent, or a rotary key) are packed into words:
 * one float32, two halves or four 8-bit cells each, and each vector starts with a word of its own.
 * `scales` are float32, one for each block of SCALE_BLOCK numbers of a vector; null unless q8. They lie
 * behind the numbers in the same memory, since kernels may see few buffers.
 */
export interface CacheArrays {
  readonly numbers: TokenArray;
  readonly scales: TokenArray | null;
}

/** Per layer: keys `[kvHeads][keyDim]` and values `[kvHeads][valueDim]` of each token. */
export type GpuKvCache = KvCache & {
  readonly perLayer: readonly { readonly keys: CacheArrays; readonly values: CacheArrays }[];
};

/** Per layer: the latent, then the rotary key of each token. */
export type GpuLatentCache = LatentCache & { readonly perLayer: readonly CacheArrays[] };

export type GpuCache = GpuKvCache | GpuLatentCache;

/** All arrays of a cache, in the order in which a page's bytes have them. */
export function arraysOf(cache: GpuCache): TokenArray[] {
  const layers = cache.perLayer.flatMap((layer) =>
    "keys" in layer ? [layer.keys, layer.values] : [layer]
  );
  return layers.flatMap(({ numbers, scales }) => scales === null ? [numbers] : [numbers, scales]);
}

export function bufferOf(buffer: Buffer): GpuBuffer {
  if (buffer instanceof GpuBuffer) return buffer;
  throw foreign("buffer");
}

export function weightOf(weight: Weight): GpuWeight {
  if (weight instanceof GpuWeight) return weight;
  throw foreign("weight");
}

export function expertsOf(experts: Experts): GpuExperts {
  if (experts instanceof GpuExperts) return experts;
  throw foreign("layer's experts");
}

export function kvCacheOf(cache: KvCache): GpuKvCache {
  if ("perLayer" in cache) return cache as GpuKvCache;
  throw foreign("KV cache");
}

export function latentCacheOf(cache: LatentCache): GpuLatentCache {
  if ("perLayer" in cache) return cache as GpuLatentCache;
  throw foreign("latent cache");
}

export function cacheOf(cache: ModelCache): GpuCache {
  if ("perLayer" in cache) return cache as GpuCache;
  throw foreign("cache");
}
