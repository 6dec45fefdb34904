/** What the reference backend holds, and the way back from the seam's handles to its arrays. */

import { foreign } from "../op_checks.ts";
import {
  type Buffer,
  type Experts,
  type ExpertTensors,
  type KvCache,
  type KvCacheOptions,
  type KvType,
  type LatentCache,
  type LatentCacheOptions,
  type Norm,
  PAGE_TOKENS,
  type TensorData,
  type Weight,
} from "../backend.ts";
import type { LatentLayer } from "./latent.ts";
import type { ExpertMatrices } from "./moe.ts";
import type { LayerCache, Matrix, NormValues } from "./ops.ts";

export class ReferenceWeight implements Weight, Matrix {
  readonly name: string;
  readonly type: Weight["type"];
  readonly rows: number;
  readonly cols: number;
  readonly values: Float32Array;

  constructor(tensor: TensorData, values: Float32Array) {
    this.name = tensor.name;
    this.type = tensor.type;
    this.rows = tensor.rows;
    this.cols = tensor.cols;
    this.values = values;
  }

  get byteLength(): number {
    return this.values.byteLength;
  }
}

export class ReferenceBuffer implements Buffer {
  readonly kind: Buffer["kind"];
  readonly rows: number;
  readonly width: number;
  readonly values: Float32Array | Int32Array;

  constructor(shape: Buffer, values: Float32Array | Int32Array) {
    this.kind = shape.kind;
    this.rows = shape.rows;
    this.width = shape.width;
    this.values = values;
  }
}

export class ReferenceKvCache implements KvCache {
  readonly type: KvType;
  readonly layers: number;
  readonly pages: number;
  readonly kvHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  readonly byteLength: number;
  readonly perLayer: readonly LayerCache[];

  constructor(options: KvCacheOptions, allocate: (length: number) => Float32Array) {
    const { type, layers, pages, kvHeads, keyDim, valueDim } = options;
    this.type = type;
    this.layers = layers;
    this.pages = pages;
    this.kvHeads = kvHeads;
    this.keyDim = keyDim;
    this.valueDim = valueDim;
    const slots = pages * PAGE_TOKENS * kvHeads;
    this.perLayer = Array.from({ length: layers }, () => ({
      keys: allocate(slots * keyDim),
      values: allocate(slots * valueDim),
      kvHeads,
      keyDim,
      valueDim,
    }));
    this.byteLength = layers * slots * (keyDim + valueDim) * 4;
  }
}

/** `[pages * PAGE_TOKENS, latentDim + ropeDim]` numbers a layer. */
export class ReferenceLatentCache implements LatentCache {
  readonly type: KvType;
  readonly layers: number;
  readonly pages: number;
  readonly latentDim: number;
  readonly ropeDim: number;
  readonly byteLength: number;
  readonly perLayer: readonly LatentLayer[];

  constructor(options: LatentCacheOptions, allocate: (length: number) => Float32Array) {
    const { type, layers, pages, latentDim, ropeDim } = options;
    this.type = type;
    this.layers = layers;
    this.pages = pages;
    this.latentDim = latentDim;
    this.ropeDim = ropeDim;
    const length = pages * PAGE_TOKENS * (latentDim + ropeDim);
    this.perLayer = Array.from({ length: layers }, () => ({
      tokens: allocate(length),
      latentDim,
      ropeDim,
    }));
    this.byteLength = layers * length * 4;
  }
}

/** One layer's experts, all of them in memory. */
export class ReferenceExperts implements Experts {
  readonly layer: number;
  readonly count: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly byteLength: number;
  readonly matrices: readonly ExpertMatrices[];

  constructor(tensors: ExpertTensors, matrices: readonly ExpertMatrices[]) {
    this.layer = tensors.layer;
    this.count = matrices.length;
    this.hidden = tensors.gate[0].cols;
    this.intermediate = tensors.gate[0].rows;
    this.matrices = matrices;
    this.byteLength = matrices.reduce(
      (sum, { gate, up, down, biases }) =>
        [gate, up, down].reduce((bytes, matrix) => bytes + matrix.values.byteLength, sum) +
        (biases ? biases.gate.byteLength + biases.up.byteLength + biases.down.byteLength : 0),
      0,
    );
  }
}

export function matrixOf(weight: Weight): ReferenceWeight {
  if (weight instanceof ReferenceWeight) return weight;
  throw foreign("weight");
}

export function normOf(norm: Norm): NormValues {
  return { weight: matrixOf(norm.weight).values, eps: norm.eps };
}

export function layerOf(cache: KvCache, layer: number): LayerCache {
  if (cache instanceof ReferenceKvCache) return cache.perLayer[layer];
  throw foreign("KV cache");
}

export function latentLayerOf(cache: LatentCache, layer: number): LatentLayer {
  if (cache instanceof ReferenceLatentCache) return cache.perLayer[layer];
  throw foreign("latent cache");
}

export function expertsOf(experts: Experts): readonly ExpertMatrices[] {
  if (experts instanceof ReferenceExperts) return experts.matrices;
  throw foreign("layer's experts");
}

export function bufferOf(buffer: Buffer): ReferenceBuffer {
  if (buffer instanceof ReferenceBuffer) return buffer;
  throw foreign("buffer");
}

export function floats(buffer: Buffer): Float32Array {
  const { values } = bufferOf(buffer);
  if (values instanceof Float32Array) return values;
  throw new RangeError("cannot use a buffer: its kind is i32, must be f32");
}

export function integers(buffer: Buffer): Int32Array {
  const { values } = bufferOf(buffer);
  if (values instanceof Int32Array) return values;
  throw new RangeError("cannot use a buffer: its kind is f32, must be i32");
}
