/** Turns ops of training into dispatches. */

import { checkExperts } from "../../op_checks.ts";
import type { TrainingOps } from "../../training.ts";
import * as check from "../../training_checks.ts";
import type * as params from "../../training_params.ts";
import type { OpContext } from "../ops/context.ts";
import { GpuRecorder, type RecorderContext } from "../recorder.ts";
import { attentionBackward, latentAttentionBackward } from "./attention.ts";
import { embedBackward } from "./embed.ts";
import { expertsBackward } from "./experts.ts";
import { expertGates, keepingExperts } from "./kept_experts.ts";
import { countExperts, updateCorrectionBias } from "./expert_counts.ts";
import { gateBackward, replayGate } from "./gate.ts";
import * as halves from "./halves.ts";
import { latentTokens } from "./latent_tokens.ts";
import * as losses from "./losses.ts";
import { rmsNormBackward, rotateAndCacheBackward, rotateAndCacheLatentBackward } from "./norm.ts";
import type { Trained } from "./parameters.ts";
import { headLinearBackward, linearBackward } from "./products.ts";
import * as rows from "./rows.ts";
import { update } from "./optimizers.ts";
import * as updates from "./updates.ts";

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

  keepingExperts(params: params.KeepingExpertsParams): void {
    checkExperts(params);
    check.checkExpertGates(params);
    this.#record(keepingExperts, params);
  }

  expertGates(params: params.ExpertGatesParams): void {
    check.checkExpertGates(params);
    this.#record(expertGates, params);
  }

  replayGate(params: params.ReplayGateParams): void {
    check.checkReplayGate(params);
    this.#record(replayGate, params);
  }

  swiglu(params: params.SwigluParams): void {
    check.checkSwiglu(params);
    this.#record(rows.swiglu, params);
  }

  latentTokens(params: params.LatentTokensParams): void {
    check.checkLatentTokens(params);
    this.#record(latentTokens, params);
  }

  pack(params: params.PackParams): void {
    check.checkPack(params);
    this.#record(halves.pack, params);
  }

  unpack(params: params.PackParams): void {
    check.checkPack(params);
    this.#record(halves.unpack, params);
  }

  tokenLogProbs(params: params.TokenLogProbsParams): void {
    check.checkTokenLogProbs(params);
    this.#record(losses.tokenLogProbs, params);
  }

  likelihoodLoss(params: params.LikelihoodLossParams): void {
    check.checkLoss("likelihoodLoss", params);
    this.#record(losses.likelihoodLoss, params);
  }

  policyLoss(params: params.PolicyLossParams): void {
    check.checkPolicyLoss(params);
    this.#record(losses.policyLoss, params);
  }

  tokenLogProbsBackward(params: params.TokenLogProbsBackwardParams): void {
    check.checkTokenLogProbsBackward(params);
    this.#record(losses.tokenLogProbsBackward, params);
  }

  embedBackward(params: params.EmbedBackwardParams): void {
    check.checkEmbedBackward(params);
    this.#record(embedBackward, params);
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

  gateBackward(params: params.GateBackwardParams): void {
    check.checkGateBackward(params);
    this.#record(gateBackward, params);
  }

  expertsBackward(params: params.ExpertsBackwardParams): void {
    check.checkExpertsBackward(params);
    this.#record(expertsBackward, params);
  }

  zeroGradients(params: params.ZeroGradientsParams): void {
    this.#record(updates.zeroGradients, params);
  }

  prepareUpdate(params: params.PrepareUpdateParams): void {
    check.checkClock("prepareUpdate", params.clock);
    this.#record(updates.prepareUpdate, params);
  }

  update(params: params.UpdateParams): void {
    check.checkClock("update", params.clock);
    this.#record(update, params);
  }

  countExperts(params: params.CountExpertsParams): void {
    check.checkCountExperts(params);
    this.#record(countExperts, params);
  }

  updateCorrectionBias(params: params.UpdateCorrectionBiasParams): void {
    check.checkUpdateCorrectionBias(params);
    this.#record(updateCorrectionBias, params);
  }

  #record<P>(op: TrainedOp<P>, params: P): void {
    this.length++;
    op(this.context, params, this.#trained);
  }
}
