/**
 * The objective of GRPO over whole answers, in float64 on plain arrays: what `policyLoss` of a back end
 * sums up token by token, and the statistics that are logged of it.
 */

import { policyTerm } from "../../backend/reference/training/losses.ts";
import { type LossShares, tokenShares } from "../policy.ts";

/** The tokens of an answer that count, by their log-probabilities; lists are of one length. */
export interface AnswerTokens {
  readonly advantage: number;
  /** Of the model as it is. */
  readonly logProbs: ArrayLike<number>;
  /** Of the model that sampled them. */
  readonly oldLogProbs: ArrayLike<number>;
  /** Of the model to stay close to; without it there is no KL. */
  readonly referenceLogProbs?: ArrayLike<number>;
  /** Of the distributions that they were drawn from, in nats. */
  readonly entropies?: ArrayLike<number>;
}

export interface ObjectiveOptions {
  /** The ratio stays above 1 - clipLow where it is to fall, below 1 + clipHigh where it is to rise. */
  readonly clipLow: number;
  readonly clipHigh: number;
  /** Factor on the k3 estimate (Schulman 2020) of the divergence from the reference. */
  readonly klCoefficient: number;
  readonly shares: LossShares;
  /** The longest that an answer may be, for shares by "length". */
  readonly maxLength: number;
}

/** Shares are of all tokens; `low` ones were clipped from below, `high` ones from above. */
export interface ClipStatistics {
  readonly low: number;
  readonly high: number;
  /** The least share of an answer, and the greatest. */
  readonly lowMin: number;
  readonly highMax: number;
}

export interface PolicyObjective {
  readonly loss: number;
  /** The loss by each log-probability, an answer each. */
  readonly gradients: readonly Float64Array[];
  readonly tokens: number;
  /** Means over tokens. */
  readonly ratio: number;
  readonly clip: ClipStatistics;
  /** Mean of the k3 estimate; null without references. */
  readonly kl: number | null;
  readonly entropy: number | null;
}

/** Answers without tokens, such as masked ones, count in shares by "sequence" and "length" all the same. */
export function policyObjective(
  answers: readonly AnswerTokens[],
  options: ObjectiveOptions,
): PolicyObjective {
  const shares = tokenShares(answers.map(({ logProbs }) => logProbs.length), options);
  const sums = { loss: 0, tokens: 0, ratio: 0, kl: 0, entropy: 0, low: 0, high: 0 };
  let [lowMin, highMax] = [Infinity, -Infinity];
  const gradients = answers.map((answer, a) => {
    const { length } = answer.logProbs;
    const gradient = new Float64Array(length);
    let [low, high] = [0, 0];
    for (let t = 0; t < length; t++) {
      const term = policyTerm({
        logProb: answer.logProbs[t],
        oldLogProb: answer.oldLogProbs[t],
        referenceLogProb: answer.referenceLogProbs?.[t],
        advantage: answer.advantage,
      }, options);
      gradient[t] = shares[a] * term.slope;
      sums.loss += shares[a] * term.loss;
      sums.ratio += term.ratio;
      sums.kl += term.kl;
      sums.entropy += answer.entropies?.[t] ?? 0;
      if (term.clipped && answer.advantage < 0) low++;
      else if (term.clipped) high++;
    }
    sums.tokens += length;
    sums.low += low;
    sums.high += high;
    if (length > 0) {
      lowMin = Math.min(lowMin, low / length);
      highMax = Math.max(highMax, high / length);
    }
    return gradient;
  });
  const mean = (sum: number) => sum / Math.max(sums.tokens, 1);
  const has = (of: (answer: AnswerTokens) => unknown) =>
    sums.tokens > 0 && answers.every((answer) => of(answer) !== undefined);
  return {
    ...{ loss: sums.loss, gradients, tokens: sums.tokens, ratio: mean(sums.ratio) },
    clip: {
      low: mean(sums.low),
      high: mean(sums.high),
      lowMin: sums.tokens > 0 ? lowMin : 0,
      highMax: sums.tokens > 0 ? highMax : 0,
    },
    kl: has(({ referenceLogProbs }) => referenceLogProbs) ? mean(sums.kl) : null,
    entropy: has(({ entropies }) => entropies) ? mean(sums.entropy) : null,
  };
}
