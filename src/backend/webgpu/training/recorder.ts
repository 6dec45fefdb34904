/** Turns ops of training into dispatches. */

import { UnsupportedOpError } from "../../../errors.ts";
import type { TrainingOps } from "../../training.ts";
import * as check from "../../training_checks.ts";
import type * as params from "../../training_params.ts";
import type { OpContext } from "../ops/context.ts";
import { GpuRecorder, type RecorderContext } from "../recorder.ts";
import { attentionBackward, latentAttentionBackward } from "./attention.ts";
import { latentTokens } from "./latent_tokens.ts";
import { rmsNormBackward, rotateAndCacheBackward, rotateAndCacheLatentBackward } from "./norm.ts";
import type { Trained } from "./parameters.ts";
import { headLinearBackward, linearBackward } from "./products.ts";
import * as rows from "./rows.ts";

type TrainedOp<P> = (context: OpContext, params: P, trained: Trained) => void;

export class TrainingRecorder extends GpuRecorder implements TrainingOps {
  readonly #trained: Trained;

  constructor(context: RecorderContext, trained: Trained) {
    super(context);
    this.#trained = trained;
  }

  copy(params: params.CopyParams): void {
    check.checkCopy(params);
    this.#record(rows.copy, params);
  }

  fill(params: params.FillParams): void {
    this.#record(rows.fill, params);
  }

  keepingGatedLinear(params: params.KeepingGatedLinearParams): void {
    const { x, norm, gate, up, out, kept, rows } = params;
    check.checkKept("keepingGatedLinear", kept, { rows, width: gate.rows });
    const outputs = [{ weight: gate, out: kept.gate }, { weight: up, out: kept.up }];
    this.linear({ x, ...(norm && { norm }), outputs, rows });
    // What the op itself does with the same two sums.
    this.swiglu({ ...kept, out, rows });
  }

  keepingExperts(_: params.KeepingExpertsParams): void {
    throw missing("keepingExperts");
  }

  expertGates(_: params.ExpertGatesParams): void {
    throw missing("expertGates");
  }

  replayGate(_: params.ReplayGateParams): void {
    throw missing("replayGate");
  }

  swiglu(params: params.SwigluParams): void {
    check.checkSwiglu(params);
    this.#record(rows.swiglu, params);
  }

  latentTokens(params: params.LatentTokensParams): void {
    check.checkLatentTokens(params);
    this.#record(latentTokens, params);
  }

  pack(): void {
    throw noHalves();
  }

  unpack(): void {
    throw noHalves();
  }

  tokenLogProbs(_: params.TokenLogProbsParams): void {
    throw missing("tokenLogProbs");
  }

  likelihoodLoss(_: params.LikelihoodLossParams): void {
    throw missing("likelihoodLoss");
  }

  policyLoss(_: params.PolicyLossParams): void {
    throw missing("policyLoss");
  }

  tokenLogProbsBackward(_: params.TokenLogProbsBackwardParams): void {
    throw missing("tokenLogProbsBackward");
  }

  embedBackward(params: params.EmbedBackwardParams): void {
    check.checkEmbedBackward(params);
    this.#record(rows.embedBackward, params);
  }

  rmsNormBackward(params: params.RmsNormBackwardParams): void {
    check.checkRmsNormBackward(params);
    this.#record(rmsNormBackward, params);
  }

  linearBackward(params: params.LinearBackwardParams): void {
    check.checkLinearBackward(params);
    this.#record(linearBackward, params);
  }

  swigluBackward(params: params.SwigluBackwardParams): void {
    check.checkSwigluBackward(params);
    this.#record(rows.swigluBackward, params);
  }

  rotateAndCacheBackward(params: params.RotateAndCacheBackwardParams): void {
    check.checkRotateAndCacheBackward(params);
    this.#record(rotateAndCacheBackward, params);
  }

  attentionBackward(params: params.AttentionBackwardParams): void {
    check.checkAttentionBackward(params);
    this.#record(attentionBackward, params);
  }

  gatherRowsBackward(params: params.GatherRowsBackwardParams): void {
    check.checkGatherRowsBackward(params);
    this.#record(rows.gatherRowsBackward, params);
  }

  headLinearBackward(params: params.HeadLinearBackwardParams): void {
    check.checkHeadLinearBackward(params);
    this.#record(headLinearBackward, params);
  }

  rotateAndCacheLatentBackward(params: params.RotateAndCacheLatentBackwardParams): void {
    check.checkRotateAndCacheLatentBackward(params);
    this.#record(rotateAndCacheLatentBackward, params);
  }

  latentAttentionBackward(params: params.LatentAttentionBackwardParams): void {
    check.checkLatentAttentionBackward(params);
    this.#record(latentAttentionBackward, params);
  }

  gateBackward(_: params.GateBackwardParams): void {
    throw missing("gateBackward");
  }

  expertsBackward(_: params.ExpertsBackwardParams): void {
    throw missing("expertsBackward");
  }

  zeroGradients(_: params.ZeroGradientsParams): void {
    throw missing("zeroGradients");
  }

  prepareUpdate(_: params.PrepareUpdateParams): void {
    throw missing("prepareUpdate");
  }

  update(_: params.UpdateParams): void {
    throw missing("update");
  }

  countExperts(_: params.CountExpertsParams): void {
    throw missing("countExperts");
  }

  updateCorrectionBias(_: params.UpdateCorrectionBiasParams): void {
    throw missing("updateCorrectionBias");
  }

  #record<P>(op: TrainedOp<P>, params: P): void {
    this.length++;
    op(this.context, params, this.#trained);
  }
}

function missing(op: string): UnsupportedOpError {
  return new UnsupportedOpError(`cannot record ${op}: the webgpu backend has no such op yet`);
}

export function noHalves(): UnsupportedOpError {
  return new UnsupportedOpError(
    "cannot store activations in halves: the webgpu backend's storage must be f32",
  );
}
