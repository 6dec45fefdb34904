/**
 * What a model on the tape holds in the place of memory. A handle of a buffer takes memory only where a
 * plan runs without the tape, or where the host writes it; with the tape, values lie wherever it puts them.
 */

import type {
  Buffer,
  KvCache,
  KvCacheOptions,
  LatentCache,
  LatentCacheOptions,
} from "../../backend/backend.ts";
import type { TrainingBackend } from "../../backend/training.ts";

export class TapeBuffer implements Buffer {
  readonly kind: Buffer["kind"];
  readonly rows: number;
  readonly width: number;
  readonly #backend: TrainingBackend;
  #located: Buffer | null = null;

  constructor(shape: Buffer, backend: TrainingBackend) {
    this.kind = shape.kind;
    this.rows = shape.rows;
    this.width = shape.width;
    this.#backend = backend;
  }

  get located(): Buffer {
    return this.#located ??= this.#backend.createBuffer({
      kind: this.kind,
      rows: this.rows,
      width: this.width,
    });
  }
}

/** A cache of the inner backend when it is first used, and one of a single layer for training. */
abstract class TapeCache<Cache extends { readonly byteLength: number }> {
  #located: Cache | null = null;
  #single: Cache | null = null;

  abstract readonly layers: number;

  protected abstract create(layers: number): Cache;

  get byteLength(): number {
    return this.located.byteLength;
  }

  get located(): Cache {
    return this.#located ??= this.create(this.layers);
  }

  /** All layers write and read it in turn: attention follows at once. */
  get single(): Cache {
    return this.#single ??= this.create(1);
  }
}

export class TapeKvCache extends TapeCache<KvCache> implements KvCache {
  readonly type: KvCache["type"];
  readonly layers: number;
  readonly pages: number;
  readonly kvHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  readonly #backend: TrainingBackend;

  constructor(options: KvCacheOptions, backend: TrainingBackend) {
    super();
    this.type = options.type;
    this.layers = options.layers;
    this.pages = options.pages;
    this.kvHeads = options.kvHeads;
    this.keyDim = options.keyDim;
    this.valueDim = options.valueDim;
    this.#backend = backend;
  }

  protected create(layers: number): KvCache {
    const { type, pages, kvHeads, keyDim, valueDim } = this;
    return this.#backend.createKvCache({ type, layers, pages, kvHeads, keyDim, valueDim });
  }
}

export class TapeLatentCache extends TapeCache<LatentCache> implements LatentCache {
  readonly type: LatentCache["type"];
  readonly layers: number;
  readonly pages: number;
  readonly latentDim: number;
  readonly ropeDim: number;
  readonly #backend: TrainingBackend;

  constructor(options: LatentCacheOptions, backend: TrainingBackend) {
    super();
    this.type = options.type;
    this.layers = options.layers;
    this.pages = options.pages;
    this.latentDim = options.latentDim;
    this.ropeDim = options.ropeDim;
    this.#backend = backend;
  }

  protected create(layers: number): LatentCache {
    const { type, pages, latentDim, ropeDim } = this;
    return this.#backend.createLatentCache({ type, layers, pages, latentDim, ropeDim });
  }
}

/** Parameters of an op with what handles stand for in their place. */
export function located<P extends object>(params: P): P {
  const entries = Object.entries(params).map(([key, value]) => {
    if (key === "batch") return [key, shallow(value)];
    if (key === "outputs") return [key, value.map(shallow)];
    return [key, stoodFor(value)];
  });
  return Object.fromEntries(entries);
}

function shallow(params: object): object {
  return Object.fromEntries(Object.entries(params).map(([key, value]) => [key, stoodFor(value)]));
}

function stoodFor(value: unknown): unknown {
  return value instanceof TapeBuffer || value instanceof TapeCache ? value.located : value;
}
