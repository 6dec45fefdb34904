/** Parameters of the ops of training, one interface an op. Shapes are those of `backend.ts`. */

import type {
  Buffer,
  ExpertsParams,
  GatedLinearParams,
  GateParams,
  LinearParams,
  Norm,
  Weight,
} from "./backend.ts";
import type { HalfBuffer, Parameter } from "./training.ts";

/** Where the gradient of an op's input goes: it replaces what is there, or is added to it. */
export interface GradientTarget {
  readonly buffer: Buffer;
  readonly accumulate: boolean;
}

/** What went into a gated product: `[rows, intermediate]` each, before the activation. */
export interface KeptGate {
  readonly gate: Buffer;
  readonly up: Buffer;
}

export interface CopyParams {
  readonly from: Buffer;
  readonly to: Buffer;
  readonly rows: number;
}

export interface FillParams {
  /** f32 */
  readonly buffer: Buffer;
  readonly value: number;
}

/** As `gatedLinear`, leaving `gate x` and `up x` behind, which have the bits of `linear`. */
export interface KeepingGatedLinearParams extends GatedLinearParams {
  readonly kept: KeptGate;
}

/**
 * As `experts`, leaving `gate x` and `up x` behind: f32 [rows * topK, intermediate] each, in an order
 * of the backend's own.
 */
export interface KeepingExpertsParams extends ExpertsParams {
  readonly kept: KeptGate;
}

/** What `keepingExperts` leaves behind, to the bit, without the experts' answers. */
export interface ExpertGatesParams
  extends Pick<ExpertsParams, "x" | "experts" | "expertIds" | "topK" | "rows"> {
  readonly kept: KeptGate;
}

/** As `gate`, but `expertIds` is read: the choice has been made before, the weights follow from it. */
export type ReplayGateParams = GateParams;

/** out = silu(gate) * up */
export interface SwigluParams {
  readonly gate: Buffer;
  readonly up: Buffer;
  readonly out: Buffer;
  readonly rows: number;
}

/** What `rotateAndCacheLatent` puts into the cache, row by row. */
export interface LatentTokensParams {
  /** f32 [rows, latentDim + ropeDim] */
  readonly kv: Buffer;
  readonly latentNorm: Norm;
  readonly cosSin: Buffer;
  readonly pairing: "halves" | "interleaved";
  /** f32 [rows, latentDim + ropeDim] */
  readonly out: Buffer;
  readonly rows: number;
}

/** Values to two bytes, rounded to nearest even as the backend's storage has them, and back. */
export interface PackParams {
  readonly values: Buffer;
  readonly half: HalfBuffer;
  readonly rows: number;
}

/** out[t] = log softmax(logits[t] / temperature)[targets[t]] */
export interface TokenLogProbsParams {
  /** f32 [rows, vocabulary] */
  readonly logits: Buffer;
  /** i32 [rows, 1] */
  readonly targets: Buffer;
  readonly temperature: number;
  /** f32 [rows, 1] */
  readonly out: Buffer;
  /** f32 [rows, 1]: gets the entropy of the distribution. */
  readonly entropy?: Buffer;
  readonly rows: number;
}

export interface TokenLogProbsBackwardParams {
  readonly logits: Buffer;
  readonly targets: Buffer;
  readonly temperature: number;
  /** f32 [rows, 1] */
  readonly outGradient: Buffer;
  /** f32 [rows, vocabulary]; may be `logits`. */
  readonly logitsGradient: Buffer;
  readonly rows: number;
}

interface LossParams {
  /** f32 [rows, 1] */
  readonly logProbs: Buffer;
  /** f32 [rows, 1]: each token's share of the loss; 0 for those that have none. */
  readonly tokenWeights: Buffer;
  /** `CLOCK`; its `lossScale` is a factor on `gradient`, not on `totals`. */
  readonly clock: Buffer;
  /** f32 [rows, 1]: gets the derivative of the loss by each log-probability. */
  readonly gradient: Buffer;
  /** `TOTALS`, added to. */
  readonly totals: Buffer;
  readonly rows: number;
}

/** loss = -sum_t tokenWeights[t] * logProbs[t] (cross-entropy) */
export type LikelihoodLossParams = LossParams;

/**
 * The clipped policy objective (GRPO, DeepSeekMath, equation 3; DAPO's upper range): with
 * `r = exp(logProbs - oldLogProbs)`, token t's loss is
 * `-min(r A, clamp(r, 1 - clipLow, 1 + clipHigh) A) + klCoefficient * k3`, where
 * `k3 = exp(d) - d - 1` with `d = referenceLogProbs - logProbs` (Schulman 2020).
 */
export interface PolicyLossParams extends LossParams {
  /** f32 [rows, 1] each */
  readonly oldLogProbs: Buffer;
  readonly advantages: Buffer;
  /** Without it there is no k3. */
  readonly referenceLogProbs?: Buffer;
  readonly clipLow: number;
  readonly clipHigh: number;
  readonly klCoefficient: number;
}

/** Scatter-add to the rows of a table. */
export interface EmbedBackwardParams {
  readonly table: Weight;
  /** i32 [rows, 1] */
  readonly ids: Buffer;
  /** i32 [rows, 1]: the rows sorted by their id, of one id ascending; for backends that sum by segments. */
  readonly order: Buffer;
  readonly outGradient: Buffer;
  readonly scale?: number;
  readonly rows: number;
}

export interface RmsNormBackwardParams extends Norm {
  readonly x: Buffer;
  readonly outGradient: Buffer;
  /** May be `outGradient` where it doesn't accumulate. */
  readonly target: GradientTarget;
  readonly rows: number;
}

export interface LinearBackwardParams {
  /** What went into the product: normalised, where the product has a norm. */
  readonly x: Buffer;
  readonly outputs: readonly (Pick<LinearParams["outputs"][number], "weight" | "bias" | "scale"> & {
    readonly outGradient: Buffer;
  })[];
  readonly target: GradientTarget;
  readonly rows: number;
}

export interface SwigluBackwardParams {
  readonly gate: Buffer;
  readonly up: Buffer;
  readonly outGradient: Buffer;
  /** May be `gate` and `up`. */
  readonly gateGradient: Buffer;
  readonly upGradient: Buffer;
  readonly rows: number;
}

/** Gradients of rotated queries and keys become those of what was rotated, in place. */
export interface RotateAndCacheBackwardParams {
  readonly heads: number;
  readonly kvHeads: number;
  /** f32 [rows, heads * keyDim] */
  readonly qGradient: Buffer;
  /** f32 [rows, kvHeads * keyDim] */
  readonly kGradient: Buffer;
  /** With what they were applied to. */
  readonly qNorm?: Norm & { readonly x: Buffer };
  readonly kNorm?: Norm & { readonly x: Buffer };
  readonly cosSin: Buffer;
  readonly pairing: "halves" | "interleaved";
  readonly rows: number;
}

export interface AttentionBackwardParams {
  /** f32 [rows, heads * keyDim], rotated. */
  readonly q: Buffer;
  /** f32 [rows, kvHeads * keyDim], rotated, and [rows, kvHeads * valueDim]. */
  readonly k: Buffer;
  readonly v: Buffer;
  /** f32 [rows, heads * valueDim] */
  readonly out: Buffer;
  readonly outGradient: Buffer;
  readonly heads: number;
  readonly kvHeads: number;
  readonly scale: number;
  readonly window?: number;
  /** i32 [rows, 1] */
  readonly positions: Buffer;
  /** Replaced, all three. */
  readonly qGradient: Buffer;
  readonly kGradient: Buffer;
  readonly vGradient: Buffer;
  readonly rows: number;
}

export interface GatherRowsBackwardParams {
  /** i32 [rows, 1], all different. */
  readonly indices: Buffer;
  readonly outGradient: Buffer;
  /** Rows that were not gathered become 0 where it doesn't accumulate. */
  readonly target: GradientTarget;
  readonly targetRows: number;
  readonly rows: number;
}

export interface HeadLinearBackwardParams {
  readonly x: Buffer;
  readonly xStride: number;
  readonly weight: Weight;
  readonly heads: number;
  readonly outGradient: Buffer;
  /** What lies between the heads' inputs becomes 0 where it doesn't accumulate. */
  readonly target: GradientTarget;
  readonly rows: number;
}

export interface RotateAndCacheLatentBackwardParams {
  readonly kv: Buffer;
  readonly latentNorm: Norm;
  readonly heads: number;
  readonly nopeDim: number;
  readonly cosSin: Buffer;
  readonly pairing: "halves" | "interleaved";
  /** f32 [rows, heads * (nopeDim + ropeDim)], in place. */
  readonly qGradient: Buffer;
  /** f32 [rows, latentDim + ropeDim]: of what went into the cache. */
  readonly tokensGradient: Buffer;
  /** f32 [rows, latentDim + ropeDim], replaced; may be `tokensGradient`. */
  readonly kvGradient: Buffer;
  readonly rows: number;
}

export interface LatentAttentionBackwardParams {
  readonly latentQuery: Buffer;
  /** Rotated. */
  readonly q: Buffer;
  /** f32 [rows, latentDim + ropeDim]: what went into the cache, see `latentTokens`. */
  readonly tokens: Buffer;
  readonly out: Buffer;
  readonly outGradient: Buffer;
  readonly heads: number;
  readonly nopeDim: number;
  readonly latentDim: number;
  readonly scale: number;
  readonly positions: Buffer;
  /** Replaced, all three; what is not rotated of `qGradient` becomes 0. */
  readonly latentQueryGradient: Buffer;
  readonly qGradient: Buffer;
  readonly tokensGradient: Buffer;
  readonly rows: number;
}

/**
 * The loss that keeps experts in balance (DeepSeek-V3, section 2.1.2, equations 17 to 20):
 * `sum_t rowWeights[t] * sum_i f_i s'_ti` with `s'` the scores divided by their sum and
 * `f_i = experts / (topK * n) * (tokens that chose i)`, counted over the sequence, or the whole batch.
 */
export interface BalanceParams {
  readonly over: "sequence" | "batch";
  /** f32 [rows, 1]: alpha / (tokens of the sequence * sequences); 0 for rows that don't count. */
  readonly rowWeights: Buffer;
  /** i32 [rows, 1] */
  readonly positions: Buffer;
  readonly clock: Buffer;
  readonly totals: Buffer;
}

/** What the gate's weights and the balance loss ask of its scores. */
export interface GateBackwardParams
  extends Pick<GateParams, "weight" | "bias" | "score" | "topK" | "normalise" | "scale"> {
  /** f32 [rows, hidden] */
  readonly normed: Buffer;
  readonly expertIds: Buffer;
  /** f32 [rows, topK] */
  readonly weightsGradient: Buffer;
  readonly balance?: BalanceParams;
  /** Of `normed`. */
  readonly target: GradientTarget;
  readonly rows: number;
}

export interface ExpertsBackwardParams
  extends Pick<ExpertsParams, "x" | "experts" | "expertIds" | "weights" | "topK" | "scale"> {
  /** May be overwritten. */
  readonly kept: KeptGate;
  readonly outGradient: Buffer;
  /** Of `x`. */
  readonly target: GradientTarget;
  /** f32 [rows, topK], replaced. */
  readonly weightsGradient: Buffer;
  readonly rows: number;
}

export interface ZeroGradientsParams {
  readonly parameters: readonly Parameter[];
}

/**
 * Reads all gradients: writes the clock's `norm`, `applies` and `factor`, moves `correction1`,
 * `correction2` and `updates` on where the step applies, else `skipped`, and changes `lossScale`
 * (PyTorch's GradScaler).
 */
export interface PrepareUpdateParams {
  readonly parameters: readonly Parameter[];
  readonly clock: Buffer;
  /** Longer gradients are shortened to it. */
  readonly maxNorm?: number;
  /** Of the moments; 0 where the rule has none. */
  readonly beta1: number;
  readonly beta2: number;
  /** Absent where the loss's factor stays as it is. */
  readonly scaling?: LossScaling;
}

export interface LossScaling {
  readonly growth: number;
  readonly backoff: number;
  /** Updates in a row after which the factor grows. */
  readonly interval: number;
}

/**
 * How a step changes a number p with the gradient g (after the clock's `factor`). `rate` and `decay` are
 * the parameter's own, `rate` times the clock's.
 */
export type UpdateRule =
  /**
   * AdamW (Loshchilov & Hutter 2019): `p -= rate * decay * p`, then
   * `p -= rate * m / (sqrt(v) + eps)` with corrected moments.
   */
  | { readonly kind: "adamw"; readonly beta1: number; readonly beta2: number; readonly eps: number }
  /**
   * LAMB (You et al. 2020): with AdamW's `u = m / (sqrt(v) + eps) + decay * p`,
   * `p -= rate * |p| / |u| * u`, norms being those of the tensor; without decay the ratio is 1.
   */
  | { readonly kind: "lamb"; readonly beta1: number; readonly beta2: number; readonly eps: number }
  /**
   * LARS (You et al. 2017): `g' = trust * |p| / (|g| + decay * |p| + eps) * (g + decay * p)`, without decay
   * `g' = g`; `m = momentum * m + g'` (`g'` at first), `p -= rate * m`.
   */
  | {
    readonly kind: "lars";
    readonly momentum: number;
    readonly trust: number;
    readonly eps: number;
  };

export interface UpdateParams {
  readonly rule: UpdateRule;
  readonly parameters: readonly {
    readonly parameter: Parameter;
    /** Factor on the clock's rate. */
    readonly rate: number;
    readonly decay: number;
  }[];
  readonly clock: Buffer;
}

/** counts[row, e] += rows that chose expert e, of those whose `counted` is not 0. */
export interface CountExpertsParams {
  readonly expertIds: Buffer;
  readonly topK: number;
  /** f32 [rows, 1] */
  readonly counted: Buffer;
  /** f32 [layers, experts or more] */
  readonly counts: Buffer;
  readonly row: number;
  readonly rows: number;
}

/** bias[e] += rate * sign(mean of the counts - counts[row, e]) (DeepSeek-V3, section 2.1.2). */
export interface UpdateCorrectionBiasParams {
  readonly bias: Weight;
  readonly counts: Buffer;
  readonly row: number;
  /** f32 [1, 1] */
  readonly rate: Buffer;
}
