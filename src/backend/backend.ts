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

import type { SourceVersion } from "../formats/tensor_source.ts";
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
  /** Where the same bytes lie as one run, for backends that page weights in by themselves. */
  readonly location?: TensorLocation;
}

/** A run of bytes of a file or of a URL that answers range requests. */
export interface TensorLocation {
  /** A path, or an http(s) URL. */
  readonly file: string;
  readonly offset: number;
  readonly byteLength: number;
  /** The version of the file that the checkpoint was opened from, where that is known. */
  readonly version?: SourceVersion;
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

/** The matrices of one layer's routed experts, one entry an expert, all of one shape and type each. */
export interface ExpertTensors {
  /** The layer they belong to, for messages and for placement. */
  readonly layer: number;
  /** `[intermediate, hidden]` each */
  readonly gate: readonly TensorData[];
  readonly up: readonly TensorData[];
  /** `[hidden, intermediate]` each */
  readonly down: readonly TensorData[];
  /** `[1, intermediate]` and `[1, hidden]` each (GPT-OSS); all three or none. */
  readonly biases?: {
    readonly gate: readonly TensorData[];
    readonly up: readonly TensorData[];
    readonly down: readonly TensorData[];
  };
}

/** An id that stands for no expert. */
export const NO_EXPERT = -1;

/** What takes an expert's place. */
export interface ExpertReplacement {
  /** The number of the expert that it replaces, 0 to `count` - 1. */
  readonly slot: number;
  /** A single expert's, of the shapes and types of those that are there. */
  readonly tensors: ExpertTensors;
}

/** One layer's routed experts on a backend, resident or paged in when they are chosen. */
export interface Experts {
  readonly layer: number;
  readonly count: number;
  readonly hidden: number;
  readonly intermediate: number;
  /** Bytes of all of them in the backend's layout, resident or not. */
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

/**
 * How the numbers of a cache are kept: float32, binary16 rounded to nearest even, or 8-bit integers with
 * a scale for each block of up to 32 numbers of a token's head (or latent).
 */
export type KvType = "f32" | "f16" | "q8";

/** Keys and values of all layers, in pages of PAGE_TOKENS tokens. */
export interface KvCache {
  readonly type: KvType;
  readonly layers: number;
  readonly pages: number;
  readonly kvHeads: number;
  /** Width of a head of keys and of values. */
  readonly keyDim: number;
  readonly valueDim: number;
  readonly byteLength: number;
}

/**
 * What multi-head latent attention keeps of each token (DeepSeek-V2, section 2.1): the normalised latent
 * and the rotated key that all heads share, `[latentDim + ropeDim]` numbers a token and layer.
 */
export interface LatentCache {
  readonly type: KvType;
  readonly layers: number;
  readonly pages: number;
  readonly latentDim: number;
  readonly ropeDim: number;
  readonly byteLength: number;
}

/** The cache of a model, of whichever kind its attention reads. */
export type ModelCache = KvCache | LatentCache;

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
  /** Factor on the embeddings (Granite); 1 where absent. */
  readonly scale?: number;
  readonly rows: number;
}

export interface RmsNormParams extends Norm {
  readonly x: Buffer;
  /** May be `x`. */
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
    /** Factor on the product with its bias (Granite's multipliers); 1 where absent. */
    readonly scale?: number;
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
  /** Row t sees the last `window` of those positions only, its own included; all where absent. */
  readonly window?: number;
  /** `[1, heads]`: a score per head that takes part in the softmax without a value (GPT-OSS). */
  readonly sinks?: Weight;
  readonly rows: number;
}

/**
 * A matrix per head: `out[t, h] = weight[h] x[t, h]`, where head h's input is `cols` values of `x` at
 * `h * xStride` and `weight[h]` is rows `h * outDim ..` of `weight`. Latent attention folds its up
 * projections into queries and outputs with it (DeepSeek-V2, section 2.1.2 and appendix C).
 */
export interface HeadLinearParams {
  /** f32 [rows, heads * xStride] */
  readonly x: Buffer;
  readonly xStride: number;
  /** [heads * outDim, cols]; outDim is a multiple of 8. */
  readonly weight: Weight;
  readonly heads: number;
  /** f32 [rows, heads * outDim] */
  readonly out: Buffer;
  readonly rows: number;
}

export interface RotateAndCacheLatentParams {
  /** f32 [rows, heads * (nopeDim + ropeDim)]; the last ropeDim values of each head are rotated in place. */
  readonly q: Buffer;
  readonly heads: number;
  readonly nopeDim: number;
  /** f32 [rows, latentDim + ropeDim]: the latent before its norm, then the shared key before rotation. */
  readonly kv: Buffer;
  /** Applied to the latent only; weight [1, latentDim]. */
  readonly latentNorm: Norm;
  /** f32 [rows, ropeDim]: cosines, then sines. */
  readonly cosSin: Buffer;
  readonly pairing: "halves" | "interleaved";
  readonly cache: LatentCache;
  readonly layer: number;
  readonly batch: BatchBuffers;
  readonly rows: number;
}

/**
 * Attention over latents in the absorbed form: the score of head h with position p is
 * `scale * (latentQuery[h] . latent[p] + q[h, nopeDim..] . ropeKey[p])`.
 */
export interface LatentAttentionParams {
  /** f32 [rows, heads * latentDim] */
  readonly latentQuery: Buffer;
  /** f32 [rows, heads * (nopeDim + ropeDim)], rotated. */
  readonly q: Buffer;
  readonly heads: number;
  readonly nopeDim: number;
  readonly scale: number;
  readonly cache: LatentCache;
  readonly layer: number;
  readonly batch: BatchBuffers;
  /** f32 [rows, heads * latentDim]: the latents, averaged by the softmax of the scores. */
  readonly out: Buffer;
  readonly rows: number;
}

/**
 * The router of a mixture-of-experts layer, in float32 throughout. Scores are `score` of
 * `norm(x) weight^T + bias`; the choice goes by scores plus `correctionBias`, within the
 * `groups.used` best of `groups.count` equal groups where groups are given (others cannot be chosen,
 * whatever the sign of the scores); weights are the chosen scores without that bias, divided by
 * (their sum + 1e-20) if `normalise`, times `scale`. Of equals the lower id is chosen.
 */
export interface GateParams {
  /** f32 [rows, hidden] */
  readonly x: Buffer;
  readonly norm: Norm;
  /** f32 [rows, hidden]: gets the normalised rows, which the experts read. Not `x`. */
  readonly normed: Buffer;
  /** [experts, hidden], uploaded with `exact` */
  readonly weight: Weight;
  /** [1, experts] each */
  readonly bias?: Weight;
  readonly correctionBias?: Weight;
  /** "softmaxOfChosen": the choice goes by the logits, the weights are the softmax of the chosen ones. */
  readonly score: "softmax" | "sigmoid" | "softmaxOfChosen";
  readonly groups?: {
    readonly count: number;
    readonly used: number;
    /** A group's rank: its largest choice score, or the sum of its two largest. */
    readonly rank: "max" | "topTwo";
  };
  readonly topK: number;
  readonly normalise: boolean;
  readonly scale: number;
  /** i32 [rows, topK]: chosen experts, the best first. */
  readonly expertIds: Buffer;
  /** f32 [rows, topK] */
  readonly weights: Buffer;
  readonly rows: number;
}

/**
 * The routed experts: `out[t] += scale * sum_j weights[t, j] * expert[expertIds[t, j]](x[t])`, added
 * expert by expert in ascending order of their ids, where
 * `expert(x) = down (activation(gate x) * (up x))`. NO_EXPERT adds nothing, not even a zero.
 */
export interface ExpertsParams {
  /** f32 [rows, hidden], normalised. Not `out`. */
  readonly x: Buffer;
  readonly experts: Experts;
  readonly expertIds: Buffer;
  readonly weights: Buffer;
  readonly topK: number;
  /** "clampedSwiglu": gate at most 7, up within 7, `(up + 1) * gate * sigmoid(1.702 gate)` (GPT-OSS). */
  readonly activation: "silu" | "clampedSwiglu";
  readonly scale?: number;
  readonly out: Buffer;
  readonly rows: number;
}

/** Copies rows bit by bit: those that row t of `indices` names become row t of `out`, side by side. */
export interface GatherRowsParams {
  /** Of either kind. */
  readonly x: Buffer;
  /** i32 [maxRows, each]: which rows of `x`. */
  readonly indices: Buffer;
  /** Of x's kind, [maxRows, each * x.width]. */
  readonly out: Buffer;
  readonly rows: number;
}

/** `out[t] += x[t]` */
export interface AddParams {
  /** f32 [maxRows, width]; not `out`. */
  readonly x: Buffer;
  readonly out: Buffer;
  readonly rows: number;
}

/** What `choose` gives instead of an id where one of the logits is NaN or infinite. */
export const CHOSEN_NOT_FINITE = -1;
/** What it gives where biases of -Infinity exclude every token. */
export const CHOSEN_NONE = -2;

/**
 * The choice of tokens, for backends that decode without waiting for the host. Row t is one of the
 * sequence `sequences[t]`. What is chosen for it, an id or one of the two numbers above, goes to
 * `history[turn * stride + t]`; the id, 0 where there is none, to `ids[t]` and `latest[sequences[t]]`.
 * Without `sampling` it is that of the largest logit, the lowest of equals.
 */
export interface ChooseParams {
  /** f32 [rows, vocabulary]; undefined afterwards where there is `sampling`. */
  readonly logits: Buffer;
  /** i32 [rows, 1]; those of a step differ from each other. */
  readonly sequences: Buffer;
  /** i32 [rows, 1]: what the next step's `embed` reads. */
  readonly ids: Buffer;
  /** i32 [sequences, 1]: the ids for steps that have other rows. */
  readonly latest: Buffer;
  /** i32 [turns * stride, 1] */
  readonly history: Buffer;
  /** i32 [1, 1] */
  readonly turn: Buffer;
  readonly stride: number;
  readonly sampling?: SamplingBuffers;
  readonly rows: number;
}

/**
 * What rows are sampled by: each by its sequence's rule, as `Sampler` does with the same rule, tallies,
 * biases and random bits, and to the same token.
 */
export interface SamplingBuffers {
  /** i32 [sequences, RULE_WORDS]: `ruleWords` of each. */
  readonly rules: Buffer;
  /** i32 [turns * stride, 2]: random bits where `history` gets what they choose, the high word first. */
  readonly draws: Buffer;
  /** i32 [sequences * vocabulary, 1]: the tallies of each, counted up where its rule edits logits. */
  readonly tallies: Buffer;
  /** f32 [sequences * vocabulary, 1]: settled biases, read where its rule edits logits. */
  readonly biases: Buffer;
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
  add(params: AddParams): void;
  headLinear(params: HeadLinearParams): void;
  rotateAndCacheLatent(params: RotateAndCacheLatentParams): void;
  latentAttention(params: LatentAttentionParams): void;
  gate(params: GateParams): void;
  experts(params: ExpertsParams): void;
  /** Only where `Backend.chooses`; others throw UnsupportedOpError. */
  choose(params: ChooseParams): void;
}

/** A recorded forward pass. */
export interface Plan {
  /** Ops recorded, for display. */
  readonly length: number;
}

export interface KvCacheOptions {
  readonly type: KvType;
  readonly layers: number;
  readonly pages: number;
  readonly kvHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
}

export interface LatentCacheOptions {
  readonly type: KvType;
  readonly layers: number;
  readonly pages: number;
  readonly latentDim: number;
  readonly ropeDim: number;
}

export interface UploadOptions {
  /** Keep the values exactly: a quantised type becomes float32 (the gate's weights). */
  readonly exact?: boolean;
  /** The layer it belongs to, for placement; undefined for what belongs to none. */
  readonly layer?: number;
}

/** Bytes a backend holds, by purpose. */
export interface BackendMemory {
  readonly weights: number;
  readonly kv: number;
  readonly workspace: number;
}

/** Some of a page of a cache: its first `tokens` tokens, 1 to PAGE_TOKENS. */
export interface PagePart {
  readonly cache: ModelCache;
  readonly page: number;
  readonly tokens: number;
}

/** What paging one layer's experts in has cost so far; zeros where all are resident. */
export interface ExpertTraffic {
  readonly layer: number;
  /** Experts that are in memory now. */
  readonly resident: number;
  /** Chosen experts that were in memory, that had been asked for ahead, and that had to be waited for. */
  readonly hits: number;
  readonly prefetched: number;
  readonly misses: number;
  /** Of steps that looked ahead: experts that were expected to be chosen here, and those that were. */
  readonly predictions: { readonly made: number; readonly right: number };
  /** Bytes read from the file or URL. */
  readonly bytesRead: number;
}

export interface Backend {
  readonly name: string;
  /** What the GPU that computes calls itself; absent where none does. */
  readonly adapter?: string;
  readonly threads: number;
  readonly activations: ActivationPrecision;
  /**
   * Plans run behind `submit`, and waiting for one costs more than a step: tokens are better chosen by
   * `Ops.choose`, several steps ahead of the host.
   */
  readonly chooses: boolean;
  /**
   * Names what decides the bits of results besides the model, the activations and the type of the cache:
   * the kernels' build and how this machine's relaxed operations round. State that two backends of one
   * name computed is interchangeable.
   */
  readonly numerics: string;
  /** One line per weight whose type was converted at load: `"Q8_1 -> Q8_0"` and so on. */
  readonly conversions: readonly string[];
  /**
   * Takes a tensor into the backend's layout. Throws CapacityError where memory is short and FormatError
   * where a value is NaN or infinite.
   */
  upload(tensor: TensorData, options?: UploadOptions): Promise<Weight>;
  /** Takes one layer's routed experts; as `upload`. */
  uploadExperts(tensors: ExpertTensors): Promise<Experts>;
  /**
   * Overwrites one of a layer's experts; as `upload`, one at a time. Until it has ended plans may run
   * that don't choose the expert, whose values are undefined then, and for good where it has failed.
   * Throws UnsupportedOpError where experts are paged.
   */
  replaceExpert(experts: Experts, replacement: ExpertReplacement): Promise<void>;
  createBuffer(options: { kind: "f32" | "i32"; rows: number; width: number }): Buffer;
  createKvCache(options: KvCacheOptions): KvCache;
  createLatentCache(options: LatentCacheOptions): LatentCache;
  /** Bytes that the first `tokens` tokens of a page take as `readPage` gives them, of all layers. */
  pageBytes(cache: ModelCache, tokens: number): number;
  /**
   * Copies the first tokens of a page out, after everything submitted before and before whatever is
   * submitted or written later. The bytes have this backend's layout, without room for the tokens that are
   * missing.
   */
  readPage(part: PagePart): Promise<Uint8Array<ArrayBuffer>>;
  /** The reverse; takes effect before the next submit. The tokens behind them are undefined then. */
  writePage(part: PagePart, bytes: Uint8Array): void;
  /** Copies the first tokens of a page over another one's; takes effect before the next submit. */
  copyPage(part: PagePart, to: number): void;
  /** Writes rows from `row` on; takes effect before the next submit. */
  write(buffer: Buffer, data: Float32Array | Int32Array, row?: number): void;
  record(build: (ops: Ops) => void): Plan;
  /**
   * Runs plans, one after the other; returns when they have been queued (or, on synchronous backends, when
   * they are done). Several in one call cost a GPU one submission.
   */
  submit(...plans: readonly Plan[]): void;
  /**
   * Copies `rows` rows from `row` on, after everything submitted before and before whatever is submitted
   * later: to the start of `into`, which saves an allocation, or to a new array.
   */
  read(
    buffer: Buffer,
    options?: { row?: number; rows?: number; into?: Float32Array },
  ): Promise<Float32Array>;
  /** As `read`, of an i32 buffer. */
  readIntegers(buffer: Buffer, options?: { row?: number; rows?: number }): Promise<Int32Array>;
  memory(): BackendMemory;
  /** One entry for each layer with experts, in the order of upload. */
  expertTraffic(): readonly ExpertTraffic[];
  /** Stops threads and frees memory. */
  close(): void;
}
