/** Losses on plain arrays: log-probabilities of tokens, and what becomes of them. */

/** The natural logarithm of the sum of e^(x / temperature). */
function logSumExp(logits: Float32Array, temperature: number): number {
  const largest = logits.reduce((most, logit) => Math.max(most, logit), -Infinity);
  let total = 0;
  for (const logit of logits) total += Math.exp((logit - largest) / temperature);
  return largest / temperature + Math.log(total);
}

export function tokenLogProb(
  logits: Float32Array,
  { target, temperature }: { target: number; temperature: number },
): { logProb: number; entropy: number } {
  const all = logSumExp(logits, temperature);
  let mean = 0;
  for (const logit of logits) {
    const logProb = logit / temperature - all;
    if (logProb > -Infinity) mean += Math.exp(logProb) * logProb;
  }
  return { logProb: logits[target] / temperature - all, entropy: -mean };
}

/** out_i = gradient / temperature * (1 if i is the target, minus the probability of i) */
export function tokenLogProbBackward(
  logits: Float32Array,
  options: { target: number; temperature: number; gradient: number; out: Float32Array },
): void {
  const { target, temperature, gradient, out } = options;
  const all = logSumExp(logits, temperature);
  const factor = gradient / temperature;
  for (let i = 0; i < logits.length; i++) {
    const probability = Math.exp(logits[i] / temperature - all);
    out[i] = factor * ((i === target ? 1 : 0) - probability);
  }
}

export interface PolicyTerm {
  readonly loss: number;
  /** By the log-probability. */
  readonly slope: number;
  readonly ratio: number;
  readonly kl: number;
  /** Whether the advantage would have pushed the ratio further out of the range. */
  readonly clipped: boolean;
}

/** One token of the clipped policy objective; see `PolicyLossParams`. */
export function policyTerm(
  token: {
    logProb: number;
    oldLogProb: number;
    advantage: number;
    /** Undefined where there is no k3. */
    referenceLogProb: number | undefined;
  },
  options: { clipLow: number; clipHigh: number; klCoefficient: number },
): PolicyTerm {
  const { logProb, oldLogProb, advantage, referenceLogProb } = token;
  const { clipLow, clipHigh, klCoefficient } = options;
  const ratio = Math.exp(logProb - oldLogProb);
  const within = Math.min(Math.max(ratio, 1 - clipLow), 1 + clipHigh);
  const clipped = advantage < 0 ? ratio < 1 - clipLow : advantage > 0 && ratio > 1 + clipHigh;
  const objective = Math.min(ratio * advantage, within * advantage);
  const difference = referenceLogProb === undefined ? 0 : referenceLogProb - logProb;
  const kl = Math.exp(difference) - difference - 1;
  return {
    loss: -objective + klCoefficient * kl,
    slope: (clipped ? 0 : -ratio * advantage) + klCoefficient * (1 - Math.exp(difference)),
    ratio,
    kl,
    clipped,
  };
}
