/** Records losses, and what the end of a step does to parameters. */

import type * as params from "../../training_params.ts";
import * as check from "../../training_checks.ts";
import { CLOCK, TOTALS } from "../../training.ts";
import { floats, integers, matrixOf } from "../memory.ts";
import { checkIndex, rowOf } from "../recorder.ts";
import { ForwardRecorder } from "./forward_recorder.ts";
import { policyTerm, tokenLogProb, tokenLogProbBackward } from "./losses.ts";
import { tensorsOf } from "./parameters.ts";
import { prepare, updateTensors } from "./updates.ts";

export class LossRecorder extends ForwardRecorder {
  tokenLogProbs(params: params.TokenLogProbsParams): void {
    check.checkTokenLogProbs(params);
    const { temperature, rows } = params;
    const { width } = params.logits;
    const [logits, out] = [params.logits, params.out].map(floats);
    const entropy = params.entropy && floats(params.entropy);
    const targets = integers(params.targets);
    this.steps.push(() => {
      for (let t = 0; t < rows; t++) {
        const target = checkIndex("target", targets[t], width);
        const token = tokenLogProb(rowOf(logits, t, width), { target, temperature });
        out[t] = token.logProb;
        if (entropy) entropy[t] = token.entropy;
      }
    });
  }

  tokenLogProbsBackward(params: params.TokenLogProbsBackwardParams): void {
    check.checkTokenLogProbsBackward(params);
    const { temperature, rows } = params;
    const { width } = params.logits;
    const [logits, outGradient] = [params.logits, params.outGradient].map(floats);
    const logitsGradient = floats(params.logitsGradient);
    const targets = integers(params.targets);
    this.steps.push(() => {
      for (let t = 0; t < rows; t++) {
        const target = checkIndex("target", targets[t], width);
        const out = rowOf(logitsGradient, t, width);
        const gradient = outGradient[t];
        tokenLogProbBackward(rowOf(logits, t, width), { target, temperature, gradient, out });
      }
    });
  }

  likelihoodLoss(params: params.LikelihoodLossParams): void {
    check.checkLoss("likelihoodLoss", params);
    const { rows } = params;
    const [logProbs, tokenWeights] = [params.logProbs, params.tokenWeights].map(floats);
    const [clock, gradient, totals] = [params.clock, params.gradient, params.totals].map(floats);
    this.steps.push(() => {
      let [loss, tokens] = [0, 0];
      for (let t = 0; t < rows; t++) {
        const weight = tokenWeights[t];
        gradient[t] = -weight * clock[CLOCK.lossScale];
        if (weight === 0) continue;
        loss -= weight * logProbs[t];
        tokens++;
      }
      totals[TOTALS.loss] += loss;
      totals[TOTALS.tokens] += tokens;
    });
  }

  policyLoss(params: params.PolicyLossParams): void {
    check.checkPolicyLoss(params);
    const { rows } = params;
    const [logProbs, tokenWeights] = [params.logProbs, params.tokenWeights].map(floats);
    const [oldLogProbs, advantages] = [params.oldLogProbs, params.advantages].map(floats);
    const references = params.referenceLogProbs && floats(params.referenceLogProbs);
    const [clock, gradient, totals] = [params.clock, params.gradient, params.totals].map(floats);
    this.steps.push(() => {
      const sums = new Float64Array(totals.length);
      for (let t = 0; t < rows; t++) {
        const weight = tokenWeights[t];
        gradient[t] = 0;
        if (weight === 0) continue;
        const term = policyTerm({
          logProb: logProbs[t],
          oldLogProb: oldLogProbs[t],
          advantage: advantages[t],
          referenceLogProb: references?.[t],
        }, params);
        gradient[t] = weight * term.slope * clock[CLOCK.lossScale];
        sums[TOTALS.loss] += weight * term.loss;
        sums[TOTALS.tokens] += 1;
        sums[TOTALS.kl] += term.kl;
        sums[TOTALS.clipped] += term.clipped ? 1 : 0;
        sums[TOTALS.ratio] += term.ratio;
      }
      sums.forEach((sum, i) => totals[i] += sum);
    });
  }

  zeroGradients({ parameters }: params.ZeroGradientsParams): void {
    const gradients = parameters.map((parameter) => tensorsOf(parameter).slot("gradient"));
    this.steps.push(() => gradients.forEach((gradient) => gradient.fill(0)));
  }

  prepareUpdate({ parameters, ...options }: params.PrepareUpdateParams): void {
    check.checkClock("prepareUpdate", options.clock);
    const tensors = parameters.map(tensorsOf);
    const clock = floats(options.clock);
    this.steps.push(() => prepare(tensors, { ...options, clock }));
  }

  update({ rule, parameters, clock: of }: params.UpdateParams): void {
    check.checkClock("update", of);
    const clock = floats(of);
    const list = parameters.map(({ parameter, rate, decay }) => ({
      tensors: tensorsOf(parameter),
      options: { rule, rate, decay, clock },
    }));
    this.steps.push(() => list.forEach(({ tensors, options }) => updateTensors(tensors, options)));
  }

  countExperts(params: params.CountExpertsParams): void {
    check.checkCountExperts(params);
    const { topK, row, rows } = params;
    const expertIds = integers(params.expertIds);
    const counted = floats(params.counted);
    const counts = rowOf(floats(params.counts), row, params.counts.width);
    this.steps.push(() => {
      for (let i = 0; i < rows * topK; i++) {
        if (counted[Math.floor(i / topK)] !== 0) counts[expertIds[i]] += 1;
      }
    });
  }

  updateCorrectionBias(params: params.UpdateCorrectionBiasParams): void {
    check.checkUpdateCorrectionBias(params);
    const bias = matrixOf(params.bias).values;
    const counts = rowOf(floats(params.counts), params.row, params.counts.width);
    const rate = floats(params.rate);
    this.steps.push(() => {
      const chosen = counts.subarray(0, bias.length);
      const mean = chosen.reduce((sum, count) => sum + count, 0) / bias.length;
      for (const [e, count] of chosen.entries()) bias[e] += rate[0] * Math.sign(mean - count);
    });
  }
}
