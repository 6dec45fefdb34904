/**
 * The seam between models and the machines that run them.
 *
 * A model's forward pass calls ops on a recorder; the calls run nothing. `record` turns them into a
 * plan, `submit` runs a plan with whatever its parameter buffers hold at that moment, in the order of
 * submission. Only `read` waits. `reference/` is what each op means; other backends are only faster.
 *
 * Shapes: activations are `[rows, width]` row-major float32, one row a token. A weight matrix is
 * `[rows, cols]`, applied as `out[t, r] = sum_c weight[r, c] * x[t, c]`.
 */

import type { TensorType } from "../quant/types.ts";

/** How activations enter integer kernels: 8 bits, 16 bits or float32 (weights dequantised). */
export type ActivationPrecision = "q8" | "q16" | "f32";

/** A matrix or vector handed to a backend; bytes are asked for in ranges, never held whole. */
export interface TensorData {
  readonly name: string;
  readonly type: TensorType;
  /** 1 for a vector. */
  readonly rows: number;
  readonly cols: number;
  /** Fills `into` with the tensor's bytes from `offset` (the file's layout, row-major blocks). */
  read(offset: number, into: Uint8Array): Promise<void>;
}

/** A tensor that a backend holds in its own layout. */
export interface Weight {
  readonly name: string;
  readonly type: TensorType;
  readonly rows: number;
  readonly cols: number;
  /** Bytes the backend spends on it. */
  readonly byteLength: number;
}

/** Backend memory for activations (`f32`) or parameters of a step (`i32`), `[rows, width]`. */
export interface Buffer {
  readonly kind: "f32" | "i32";
  readonly rows: number;
  readonly width: number;
}

/** Tokens in a page of the KV cache. */
export const PAGE_TOKENS = 64;

/** Keys and values of all layers, in pages of PAGE_TOKENS tokens. */
export interface KvCache {
  readonly layers: number;
  readonly pages: number;
  readonly kvHeads: number;
  /** Width of a head of keys and of values. */
  readonly keyDim: number;
  readonly valueDim: number;
  readonly byteLength: number;
}

/**
 * Where the rows of a step belong. Row t is token `positions[t]` of the sequence whose pages are row
 * `sequences[t]` of `pageTables`: position p lies in page `pageTables[s, p / PAGE_TOKENS]`.
 */
export interface BatchBuffers {
  /** i32 [maxTokens, 1] */
  readonly positions: Buffer;
  /** i32 [maxTokens, 1] */
  readonly sequences: Buffer;
  /** i32 [maxSequences, maxPagesPerSequence] */
  readonly pageTables: Buffer;
}

/** RMSNorm applied to a row before it is used (Zhang & Sennrich 2019): x / rms(x) * weight. */
export interface Norm {
  readonly weight: Weight;
  readonly eps: number;
}

export interface EmbedParams {
  readonly table: Weight;
  /** i32 [maxTokens, 1] */
  readonly ids: Buffer;
  readonly out: Buffer;
  readonly rows: number;
}

export interface RmsNormParams extends Norm {
  readonly x: Buffer;
  readonly out: Buffer;
  readonly rows: number;
}

export interface LinearParams {
  readonly x: Buffer;
  readonly norm?: Norm;
  /** Matrices that share the input; outputs must be distinct buffers and none may be `x`, unless `accumulate`. */
  readonly outputs: readonly {
    readonly weight: Weight;
    readonly bias?: Weight;
    readonly out: Buffer;
    /** Adds to `out` (the residual stream) instead of replacing it. */
    readonly accumulate?: boolean;
  }[];
  readonly rows: number;
}

export interface GatedLinearParams {
  readonly x: Buffer;
  readonly norm?: Norm;
  readonly gate: Weight;
  readonly up: Weight;
  /** out = silu(gate x) * (up x) (SwiGLU, Shazeer 2020) */
  readonly activation: "silu";
  readonly out: Buffer;
  readonly rows: number;
}

export interface RotateAndCacheParams {
  /** f32 [rows, heads * keyDim], rotated in place. */
  readonly q: Buffer;
  /** f32 [rows, kvHeads * keyDim] */
  readonly k: Buffer;
  /** f32 [rows, kvHeads * valueDim] */
  readonly v: Buffer;
  readonly heads: number;
  /** Applied to each head before rotation (Qwen3). Weights are [1, keyDim]. */
  readonly qNorm?: Norm;
  readonly kNorm?: Norm;
  /** f32 [rows, rotaryDim]: cosines of the row's position, then as many sines. */
  readonly cosSin: Buffer;
  /** Which values form a rotated pair: (i, i + rotaryDim/2) or (2i, 2i + 1). */
  readonly pairing: "halves" | "interleaved";
  readonly cache: KvCache;
  readonly layer: number;
  readonly batch: BatchBuffers;
  readonly rows: number;
}

export interface AttentionParams {
  /** f32 [rows, heads * keyDim], already rotated. */
  readonly q: Buffer;
  readonly heads: number;
  readonly scale: number;
  readonly cache: KvCache;
  readonly layer: number;
  readonly batch: BatchBuffers;
  /** f32 [rows, heads * valueDim]; row t sees positions 0..positions[t] of its sequence. */
  readonly out: Buffer;
  readonly rows: number;
}

export interface GatherRowsParams {
  readonly x: Buffer;
  /** i32 [maxRows, 1]: which rows of `x`. */
  readonly indices: Buffer;
  readonly out: Buffer;
  readonly rows: number;
}

/** The operations a model is made of. Each records; none returns a value. */
export interface Ops {
  embed(params: EmbedParams): void;
  rmsNorm(params: RmsNormParams): void;
  linear(params: LinearParams): void;
  gatedLinear(params: GatedLinearParams): void;
  rotateAndCache(params: RotateAndCacheParams): void;
  attention(params: AttentionParams): void;
  gatherRows(params: GatherRowsParams): void;
}

/** A recorded forward pass. */
export interface Plan {
  /** Ops recorded, for display. */
  readonly length: number;
}

export interface KvCacheOptions {
  readonly layers: number;
  readonly pages: number;
  readonly kvHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
}

/** Bytes a backend holds, by purpose. */
export interface BackendMemory {
  readonly weights: number;
  readonly kv: number;
  readonly workspace: number;
}

export interface Backend {
  readonly name: string;
  readonly threads: number;
  readonly activations: ActivationPrecision;
  /** One line per weight whose type was converted at load: `"Q8_1 -> Q8_0"` and so on. */
  readonly conversions: readonly string[];
  /** Takes a tensor into the backend's layout. Throws CapacityError where memory is short. */
  upload(tensor: TensorData): Promise<Weight>;
  createBuffer(options: { kind: "f32" | "i32"; rows: number; width: number }): Buffer;
  createKvCache(options: KvCacheOptions): KvCache;
  /** Writes rows from `row` on; takes effect before the next submit. */
  write(buffer: Buffer, data: Float32Array | Int32Array, row?: number): void;
  record(build: (ops: Ops) => void): Plan;
  /** Runs the plan; returns when it has been queued (or, on synchronous backends, when it is done). */
  submit(plan: Plan): void;
  /**
   * Copies `rows` rows from `row` on, after everything submitted before: to the start of `into`, which
   * saves an allocation, or to a new array.
   */
  read(
    buffer: Buffer,
    options?: { row?: number; rows?: number; into?: Float32Array },
  ): Promise<Float32Array>;
  memory(): BackendMemory;
  /** Stops threads and frees memory. */
  close(): void;
}
