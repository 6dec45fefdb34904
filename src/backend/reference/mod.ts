/**
 * The reference backend: plain TypeScript on float32 arrays, weights dequantised when they are
 * uploaded. It is what each op means, meant to be read and compared with, not to be fast.
 */

import { CapacityError } from "../../errors.ts";
import { dequantize } from "../../quant/dequantize.ts";
import { rowBytes } from "../../quant/types.ts";
import {
  type AttentionParams,
  type Backend,
  type BackendMemory,
  type BatchBuffers,
  type Buffer,
  type EmbedParams,
  type GatedLinearParams,
  type GatherRowsParams,
  type KvCache,
  type KvCacheOptions,
  type LinearParams,
  type Norm,
  type Ops,
  PAGE_TOKENS,
  type Plan,
  type RmsNormParams,
  type RotateAndCacheParams,
  type TensorData,
  type Weight,
} from "../backend.ts";
import * as check from "./checks.ts";
import {
  attendHead,
  gatedLinear,
  type LayerCache,
  linear,
  type Matrix,
  normalise,
  type NormValues,
  rotateHead,
  slotOf,
} from "./ops.ts";

export interface ReferenceBackendOptions {
  /** Bytes that weights, caches and buffers may take together; unlimited by default. */
  readonly maxBytes?: number;
}

/** Opens a reference backend. */
export function createReferenceBackend(options: ReferenceBackendOptions = {}): Backend {
  return new ReferenceBackend(options);
}

/** File bytes read at a time while a weight is uploaded. */
const UPLOAD_CHUNK_BYTES = 4 * 1024 * 1024;

class ReferenceWeight implements Weight, Matrix {
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

class ReferenceBuffer implements Buffer {
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

class ReferenceKvCache implements KvCache {
  readonly layers: number;
  readonly pages: number;
  readonly kvHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  readonly byteLength: number;
  readonly perLayer: readonly LayerCache[];

  constructor(options: KvCacheOptions, allocate: (length: number) => Float32Array) {
    const { layers, pages, kvHeads, keyDim, valueDim } = options;
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

class ReferencePlan implements Plan {
  readonly steps: readonly (() => void)[];

  constructor(steps: readonly (() => void)[]) {
    this.steps = steps;
  }

  get length(): number {
    return this.steps.length;
  }
}

class ReferenceBackend implements Backend {
  readonly name = "reference";
  readonly threads = 1;
  readonly activations = "f32";
  readonly conversions: readonly string[] = [];
  readonly #maxBytes: number;
  readonly #used = { weights: 0, kv: 0, workspace: 0 };

  constructor(options: ReferenceBackendOptions) {
    this.#maxBytes = options.maxBytes ?? Infinity;
  }

  async upload(tensor: TensorData): Promise<Weight> {
    const { rows, cols, type } = tensor;
    const values = this.#allocate("weights", { length: rows * cols, purpose: tensor.name });
    const bytesPerRow = rowBytes(type, cols);
    const rowsPerChunk = Math.max(1, Math.floor(UPLOAD_CHUNK_BYTES / bytesPerRow));
    for (let row = 0; row < rows; row += rowsPerChunk) {
      const count = Math.min(rowsPerChunk, rows - row);
      const bytes = new Uint8Array(count * bytesPerRow);
      await tensor.read(row * bytesPerRow, bytes);
      dequantize(type, bytes, values.subarray(row * cols, (row + count) * cols));
    }
    return new ReferenceWeight(tensor, values);
  }

  createBuffer(options: { kind: "f32" | "i32"; rows: number; width: number }): Buffer {
    const length = options.rows * options.width;
    const values = this.#allocate("workspace", { length, purpose: "a buffer" });
    return new ReferenceBuffer(
      options,
      options.kind === "f32" ? values : new Int32Array(values.buffer),
    );
  }

  createKvCache(options: KvCacheOptions): KvCache {
    return new ReferenceKvCache(
      options,
      (length) => this.#allocate("kv", { length, purpose: "the KV cache" }),
    );
  }

  write(buffer: Buffer, data: Float32Array | Int32Array, row = 0): void {
    const { values, width, rows } = bufferOf(buffer);
    if (data.constructor !== values.constructor) {
      throw new RangeError(`cannot write a buffer: the data is not of its kind, ${buffer.kind}`);
    }
    if (row < 0 || row * width + data.length > values.length) {
      throw new RangeError(
        `cannot write a buffer: the data's end is value ${row * width + data.length}, ` +
          `must be at most ${rows * width}`,
      );
    }
    values.set(data, row * width);
  }

  record(build: (ops: Ops) => void): Plan {
    const steps: (() => void)[] = [];
    build(new Recorder(steps));
    return new ReferencePlan(steps);
  }

  submit(plan: Plan): void {
    if (!(plan instanceof ReferencePlan)) throw foreign("plan");
    for (const step of plan.steps) step();
  }

  // deno-lint-ignore require-await -- a method of the seam: other backends do wait
  async read(
    buffer: Buffer,
    options: { row?: number; rows?: number; into?: Float32Array } = {},
  ): Promise<Float32Array> {
    const { row = 0, rows = buffer.rows - row } = options;
    if (row < 0 || rows < 0 || row + rows > buffer.rows) {
      throw new RangeError(
        `cannot read a buffer: the last row is ${row + rows}, must be at most ${buffer.rows}`,
      );
    }
    const values = floats(buffer).subarray(row * buffer.width, (row + rows) * buffer.width);
    if (options.into === undefined) return values.slice();
    options.into.set(values);
    return options.into.subarray(0, values.length);
  }

  memory(): BackendMemory {
    return { ...this.#used };
  }

  close(): void {
    // Arrays are the garbage collector's; there are no threads.
  }

  #allocate(
    kind: keyof BackendMemory,
    { length, purpose }: { length: number; purpose: string },
  ): Float32Array<ArrayBuffer> {
    const used = this.#used.weights + this.#used.kv + this.#used.workspace;
    if (used + length * 4 > this.#maxBytes) throw shortage(purpose, length, this.#maxBytes - used);
    try {
      const values = new Float32Array(length);
      this.#used[kind] += values.byteLength;
      return values;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw shortage(purpose, length, undefined);
    }
  }
}

/** Turns op calls into closures over the arrays they work on. */
class Recorder implements Ops {
  readonly #steps: (() => void)[];

  constructor(steps: (() => void)[]) {
    this.#steps = steps;
  }

  embed(params: EmbedParams): void {
    check.checkEmbed(params);
    const { rows } = params;
    const table = matrixOf(params.table);
    const ids = integers(params.ids);
    const out = floats(params.out);
    this.#steps.push(() => {
      for (let t = 0; t < rows; t++) {
        const id = checkIndex("token id", ids[t], table.rows);
        out.set(table.values.subarray(id * table.cols, (id + 1) * table.cols), t * table.cols);
      }
    });
  }

  rmsNorm(params: RmsNormParams): void {
    check.checkRmsNorm(params);
    const norm = normOf(params);
    const x = floats(params.x);
    const out = floats(params.out);
    this.#steps.push(() => {
      for (let t = 0; t < params.rows; t++) {
        normalise(norm, { x, offset: t * params.x.width, out });
      }
    });
  }

  linear(params: LinearParams): void {
    check.checkLinear(params);
    const { rows } = params;
    const outputs = params.outputs.map(({ weight, bias, out, accumulate = false }) => ({
      weight: matrixOf(weight),
      bias: bias && matrixOf(bias).values,
      out: floats(out),
      accumulate,
    }));
    const prepare = inputOf(params);
    this.#steps.push(() => {
      const x = prepare();
      for (const { weight, bias, out, accumulate } of outputs) {
        linear(weight, { x, bias, out, accumulate, rows });
      }
    });
  }

  gatedLinear(params: GatedLinearParams): void {
    check.checkGatedLinear(params);
    const { rows } = params;
    const weights = { gate: matrixOf(params.gate), up: matrixOf(params.up) };
    const out = floats(params.out);
    const prepare = inputOf(params);
    this.#steps.push(() => gatedLinear(weights, { x: prepare(), out, rows }));
  }

  rotateAndCache(params: RotateAndCacheParams): void {
    check.checkRotateAndCache(params);
    const { heads, pairing, rows } = params;
    const { kvHeads, keyDim, valueDim } = params.cache;
    const [q, k, v, cosSins] = [params.q, params.k, params.v, params.cosSin].map(floats);
    const qNorm = params.qNorm && normOf(params.qNorm);
    const kNorm = params.kNorm && normOf(params.kNorm);
    const { keys, values } = layerOf(params.cache, params.layer);
    const slots = slotsOf(params.cache, params.batch);
    const rotary = params.cosSin.width;
    this.#steps.push(() => {
      for (let t = 0; t < rows; t++) {
        const cosSin = cosSins.subarray(t * rotary, (t + 1) * rotary);
        const rotate = (x: Float32Array, at: number, norm: NormValues | undefined) => {
          const head = x.subarray(at * keyDim, (at + 1) * keyDim);
          if (norm !== undefined) normalise(norm, { x: head, offset: 0, out: head });
          rotateHead(head, { cosSin, pairing });
        };
        for (let h = 0; h < heads; h++) rotate(q, t * heads + h, qNorm);
        for (let h = 0; h < kvHeads; h++) rotate(k, t * kvHeads + h, kNorm);
        const { pageTable, position } = slots(t);
        const slot = slotOf(pageTable, position);
        const keyWidth = kvHeads * keyDim;
        const valueWidth = kvHeads * valueDim;
        keys.set(k.subarray(t * keyWidth, (t + 1) * keyWidth), slot * keyWidth);
        values.set(v.subarray(t * valueWidth, (t + 1) * valueWidth), slot * valueWidth);
      }
    });
  }

  attention(params: AttentionParams): void {
    check.checkAttention(params);
    const { heads, scale, rows } = params;
    const { kvHeads, keyDim, valueDim } = params.cache;
    const q = floats(params.q);
    const out = floats(params.out);
    const cache = layerOf(params.cache, params.layer);
    const slots = slotsOf(params.cache, params.batch);
    this.#steps.push(() => {
      for (let t = 0; t < rows; t++) {
        const { pageTable, position } = slots(t);
        for (let h = 0; h < heads; h++) {
          const row = t * heads + h;
          attendHead(cache, {
            q: q.subarray(row * keyDim, (row + 1) * keyDim),
            // Consecutive heads share a head of keys and values.
            kvHead: Math.floor(h / (heads / kvHeads)),
            scale,
            pageTable,
            position,
            out: out.subarray(row * valueDim, (row + 1) * valueDim),
          });
        }
      }
    });
  }

  gatherRows(params: GatherRowsParams): void {
    check.checkGatherRows(params);
    const { rows } = params;
    const { width } = params.x;
    const x = floats(params.x);
    const out = floats(params.out);
    const indices = integers(params.indices);
    this.#steps.push(() => {
      for (let i = 0; i < rows; i++) {
        const row = checkIndex("row", indices[i], params.x.rows);
        out.set(x.subarray(row * width, (row + 1) * width), i * width);
      }
    });
  }
}

/** The rows an op works on: the buffer itself, or its rows normalised into a scratch copy. */
function inputOf(params: { x: Buffer; norm?: Norm; rows: number }): () => Float32Array {
  const x = floats(params.x);
  if (params.norm === undefined) return () => x;
  const norm = normOf(params.norm);
  const { width } = params.x;
  return () => {
    const out = new Float32Array(params.rows * width);
    for (let t = 0; t < params.rows; t++) normalise(norm, { x, offset: t * width, out });
    return out;
  };
}

/** Row t's position and page table, read when the plan runs and checked against the cache. */
function slotsOf(
  cache: KvCache,
  batch: BatchBuffers,
): (t: number) => { pageTable: Int32Array; position: number } {
  const positions = integers(batch.positions);
  const sequences = integers(batch.sequences);
  const tables = integers(batch.pageTables);
  const { rows, width } = batch.pageTables;
  return (t) => {
    const sequence = checkIndex("sequence", sequences[t], rows);
    const position = checkIndex("position", positions[t], width * PAGE_TOKENS);
    const pageTable = tables.subarray(sequence * width, (sequence + 1) * width);
    const used = Math.floor(position / PAGE_TOKENS);
    for (let i = 0; i <= used; i++) checkIndex("page", pageTable[i], cache.pages);
    return { pageTable, position };
  };
}

function checkIndex(what: string, is: number, count: number): number {
  if (is >= 0 && is < count) return is;
  throw new RangeError(`cannot run a plan: a ${what} is ${is}, must be from 0 to ${count - 1}`);
}

function matrixOf(weight: Weight): ReferenceWeight {
  if (weight instanceof ReferenceWeight) return weight;
  throw foreign("weight");
}

function normOf(norm: Norm): NormValues {
  return { weight: matrixOf(norm.weight).values, eps: norm.eps };
}

function layerOf(cache: KvCache, layer: number): LayerCache {
  if (cache instanceof ReferenceKvCache) return cache.perLayer[layer];
  throw foreign("KV cache");
}

function bufferOf(buffer: Buffer): ReferenceBuffer {
  if (buffer instanceof ReferenceBuffer) return buffer;
  throw foreign("buffer");
}

function floats(buffer: Buffer): Float32Array {
  const { values } = bufferOf(buffer);
  if (values instanceof Float32Array) return values;
  throw new RangeError("cannot use a buffer: its kind is i32, must be f32");
}

function integers(buffer: Buffer): Int32Array {
  const { values } = bufferOf(buffer);
  if (values instanceof Int32Array) return values;
  throw new RangeError("cannot use a buffer: its kind is f32, must be i32");
}

function foreign(what: string): RangeError {
  return new RangeError(`cannot use a ${what}: it is another backend's, must be of this one`);
}

function shortage(purpose: string, length: number, left: number | undefined): CapacityError {
  return new CapacityError(
    `cannot allocate ${purpose}: it needs ${length * 4} bytes, ` +
      `must fit ${left === undefined ? "one array of this runtime" : `the ${left} bytes left`}`,
  );
}
