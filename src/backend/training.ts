/**
 * What a backend adds to `Backend` so that models can be trained on it: weights that change, gradients
 * beside them, and the backward pass of every op.
 *
 * The forward pass is that of `Ops`, to the bit. An op that training needs something more of has a twin
 * here that leaves it behind (`keepingGatedLinear`, `keepingExperts`); what it computes besides has the
 * same bits. Weights, gradients and the optimiser's state stay where the backend keeps them; a step reads
 * nothing back.
 *
 * The rows of a sequence are neighbours, in the order of their positions, which start at 0: row t's
 * sequence begins at row `t - positions[t]` and ends before the next row whose position is 0.
 */

import type { Backend, Buffer, Experts, Ops, Plan, Weight } from "./backend.ts";
import type * as params from "./training_params.ts";

/** How weights and kept activations are stored; sums, gradients of weights and masters are float32. */
export type Storage = "f32" | "f16" | "bf16";

/** Tensors of one shape that are trained alike: a weight, or one matrix of all experts of a layer. */
export interface Parameter {
  /** One tensor each, in the order in which their numbers lie. */
  readonly names: readonly string[];
  /** Of each tensor; 1 for a vector. */
  readonly rows: number;
  readonly cols: number;
}

/** What is kept for each number of a parameter: itself, its gradient, and the optimiser's moments. */
export type Slot = "value" | "gradient" | "first" | "second";

/** The parameters of one layer's routed experts. */
export interface ExpertParameters {
  readonly gate: Parameter;
  readonly up: Parameter;
  readonly down: Parameter;
}

/** Activations in two bytes each, between the forward and the backward pass. */
export interface HalfBuffer {
  readonly rows: number;
  readonly width: number;
}

/** Places of the numbers of a step's clock, an f32 buffer `[CLOCK_ROWS, 1]`. */
export const CLOCK = Object.freeze({
  /** The learning rate, which the host writes before each step. */
  rate: 0,
  /** 1 - beta^t of both moments, t being the updates made. */
  correction1: 1,
  correction2: 2,
  /** Factor on losses, and so on gradients, that keeps small ones above what halves can hold. */
  lossScale: 3,
  /** Updates made since the factor was last changed. */
  goodSteps: 4,
  /** Updates left out since a gradient was not finite, and made. */
  skipped: 5,
  updates: 6,
  /** Norm of all gradients of the last step, without the loss's factor. */
  norm: 7,
  /** What gradients are multiplied by before the update: clipping, and the loss's factor undone. */
  factor: 8,
  /** 1 where the last step's gradients are finite and are applied, else 0. */
  applies: 9,
});

export const CLOCK_ROWS = 10;

/** Rows of the totals that losses add to, an f32 buffer `[TOTALS_ROWS, 1]`. */
export const TOTALS = Object.freeze({
  loss: 0,
  /** Tokens of a weight other than 0. */
  tokens: 1,
  /** Of those tokens: the sum of k3 estimates, how many were clipped, and the sum of their ratios. */
  kl: 2,
  clipped: 3,
  ratio: 4,
  /** The balance loss of mixtures. */
  balance: 5,
});

export const TOTALS_ROWS = 6;

/** Operations of a training step, beside those of the forward pass. Each records; none returns a value. */
export interface TrainingOps extends Ops {
  // Forward, leaving something behind.
  copy(params: params.CopyParams): void;
  fill(params: params.FillParams): void;
  keepingGatedLinear(params: params.KeepingGatedLinearParams): void;
  keepingExperts(params: params.KeepingExpertsParams): void;
  expertGates(params: params.ExpertGatesParams): void;
  replayGate(params: params.ReplayGateParams): void;
  swiglu(params: params.SwigluParams): void;
  latentTokens(params: params.LatentTokensParams): void;
  pack(params: params.PackParams): void;
  unpack(params: params.PackParams): void;

  // Losses.
  tokenLogProbs(params: params.TokenLogProbsParams): void;
  likelihoodLoss(params: params.LikelihoodLossParams): void;
  policyLoss(params: params.PolicyLossParams): void;
  tokenLogProbsBackward(params: params.TokenLogProbsBackwardParams): void;

  // Backward. Gradients of weights are added to those that are there.
  embedBackward(params: params.EmbedBackwardParams): void;
  rmsNormBackward(params: params.RmsNormBackwardParams): void;
  linearBackward(params: params.LinearBackwardParams): void;
  swigluBackward(params: params.SwigluBackwardParams): void;
  rotateAndCacheBackward(params: params.RotateAndCacheBackwardParams): void;
  attentionBackward(params: params.AttentionBackwardParams): void;
  gatherRowsBackward(params: params.GatherRowsBackwardParams): void;
  headLinearBackward(params: params.HeadLinearBackwardParams): void;
  rotateAndCacheLatentBackward(params: params.RotateAndCacheLatentBackwardParams): void;
  latentAttentionBackward(params: params.LatentAttentionBackwardParams): void;
  gateBackward(params: params.GateBackwardParams): void;
  expertsBackward(params: params.ExpertsBackwardParams): void;

  // The update.
  zeroGradients(params: params.ZeroGradientsParams): void;
  prepareUpdate(params: params.PrepareUpdateParams): void;
  update(params: params.UpdateParams): void;
  countExperts(params: params.CountExpertsParams): void;
  updateCorrectionBias(params: params.UpdateCorrectionBiasParams): void;
}

export interface TrainingBackend extends Backend {
  readonly storage: Storage;
  /** The parameter that a weight of this backend is. */
  parameterOf(weight: Weight): Parameter;
  parametersOf(experts: Experts): ExpertParameters;
  /**
   * Makes room for gradients, and for so many moments, of these parameters, all zero. Ops that add to
   * gradients leave out those of parameters without room. Throws CapacityError where memory is short.
   */
  allocateGradients(parameters: readonly Parameter[], options: { moments: 0 | 1 | 2 }): void;
  createHalfBuffer(options: { rows: number; width: number }): HalfBuffer;
  recordTraining(build: (ops: TrainingOps) => void): Plan;
  /** Copies a slot of all of a parameter's tensors, after everything submitted before; masters, not what is stored. */
  readParameter(parameter: Parameter, slot: Slot): Promise<Float32Array>;
  /** The reverse; takes effect before the next submit. */
  writeParameter(parameter: Parameter, slot: Slot, values: Float32Array): void;
  /** Bytes of gradients, moments and, where storage is not f32, masters. */
  trainingBytes(): number;
  /** Bytes that a buffer of activations takes. */
  bytesOf(buffer: Buffer | HalfBuffer): number;
}
