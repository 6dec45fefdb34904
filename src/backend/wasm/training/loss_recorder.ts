/** Records losses, and what the end of a step does to parameters. */

import * as check from "../../training_checks.ts";
import type * as params from "../../training_params.ts";
import { vectorIn } from "../recorder.ts";
import { ForwardRecorder } from "./forward_recorder.ts";
import { OPCODES } from "./opcodes.ts";
import { parameterOf, type TensorTable, writeTable } from "./parameters.ts";

const RULES = { adamw: 0, lamb: 1, lars: 2 } as const;

export class LossRecorder extends ForwardRecorder {
  tokenLogProbs(params: params.TokenLogProbsParams): void {
    check.checkTokenLogProbs(params);
    const { logits, targets, temperature, out, entropy, rows } = params;
    this.op(OPCODES.tokenLogProbs, rows, [
      ...[this.in(logits), logits.width, this.in(targets), this.bits(temperature), this.in(out)],
      entropy ? this.in(entropy) : 0,
    ]);
  }

  tokenLogProbsBackward(params: params.TokenLogProbsBackwardParams): void {
    check.checkTokenLogProbsBackward(params);
    const { logits, targets, temperature, outGradient, logitsGradient, rows } = params;
    this.op(OPCODES.tokenBackward, rows, [
      ...[this.in(logits), logits.width, this.in(targets), this.bits(temperature)],
      ...[this.in(outGradient), this.in(logitsGradient)],
    ]);
  }

  likelihoodLoss(params: params.LikelihoodLossParams): void {
    check.checkLoss("likelihoodLoss", params);
    this.op(OPCODES.likelihood, params.rows, this.#tokens(params));
  }

  policyLoss(params: params.PolicyLossParams): void {
    check.checkPolicyLoss(params);
    const { oldLogProbs, advantages, referenceLogProbs, clipLow, clipHigh, klCoefficient } = params;
    this.op(OPCODES.policy, params.rows, [
      ...this.#tokens(params),
      ...[this.in(oldLogProbs), this.in(advantages)],
      referenceLogProbs ? this.in(referenceLogProbs) : 0,
      ...[clipLow, clipHigh, klCoefficient].map((value) => this.bits(value)),
    ]);
  }

  zeroGradients({ parameters }: params.ZeroGradientsParams): void {
    const { address, count, chunks } = this.#table(parameters);
    this.op(OPCODES.zero, chunks, [address, count, chunks]);
  }

  prepareUpdate(params: params.PrepareUpdateParams): void {
    const { parameters, clock, maxNorm = Infinity, beta1, beta2, scaling } = params;
    check.checkClock("prepareUpdate", clock);
    const { address, count, chunks } = this.#table(parameters);
    const { growth = 1, backoff = 1, interval = 0 } = scaling ?? {};
    this.op(OPCODES.prepare, chunks, [
      ...[address, count, chunks, this.bank.area("update norms", chunks * 8), this.in(clock)],
      ...[maxNorm, beta1, beta2, growth, backoff, interval].map((value) => this.bits(value)),
    ]);
  }

  update({ rule, parameters, clock }: params.UpdateParams): void {
    check.checkClock("update", clock);
    const { address, count, chunks } = writeTable(
      this.bank,
      parameters.map(({ parameter, ...rest }) => ({ parameter: parameterOf(parameter), ...rest })),
    );
    const [a, b] = rule.kind === "lars" ? [rule.momentum, rule.trust] : [rule.beta1, rule.beta2];
    this.op(OPCODES.update, chunks, [
      ...[address, count, chunks, RULES[rule.kind]],
      ...[a, b, rule.eps].map((value) => this.bits(value)),
      ...[this.in(clock), this.bank.area("update norms", chunks * 8)],
    ]);
  }

  countExperts(params: params.CountExpertsParams): void {
    check.checkCountExperts(params);
    const { expertIds, topK, counted, counts, row, rows } = params;
    const to = this.in(counts) + row * counts.width * 4;
    this.op(OPCODES.countExperts, rows, [
      ...[this.in(expertIds), topK, this.in(counted), to, counts.width],
    ]);
  }

  updateCorrectionBias(params: params.UpdateCorrectionBiasParams): void {
    check.checkUpdateCorrectionBias(params);
    const { bias, counts, row, rate } = params;
    const from = this.in(counts) + row * counts.width * 4;
    const at = vectorIn(bias, this.bank);
    this.op(OPCODES.updateBias, 1, [at, bias.cols, from, this.in(rate)]);
  }

  #tokens(params: params.LikelihoodLossParams): number[] {
    const { logProbs, tokenWeights, gradient, clock, totals } = params;
    return [logProbs, tokenWeights, gradient, clock, totals].map((buffer) => this.in(buffer));
  }

  /** Of ops that only read or empty gradients. */
  #table(parameters: params.ZeroGradientsParams["parameters"]): TensorTable {
    return writeTable(
      this.bank,
      parameters.map((parameter) => ({ parameter: parameterOf(parameter), rate: 0, decay: 0 })),
    );
  }
}
