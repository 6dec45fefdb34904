/**
 * What GRPO (DeepSeekMath, section 4.1) gives the policy objective: each answer's advantage over its
 * group, and each token's share of the loss.
 */

/**
 * What differences from the group's mean reward are divided by: the standard deviation of the sample
 * (n - 1), of the population (n), or nothing (Dr. GRPO, Liu et al. 2025).
 */
export type AdvantageScale = "sample" | "population" | "none";

/** Keeps groups of nearly equal rewards from growing large advantages. */
export const DEVIATION_EPS = 1e-4;

/** The advantages of answers; each `group` of them in a row answers one prompt. */
export function groupAdvantages(
  rewards: ArrayLike<number>,
  { group, scale }: { group: number; scale: AdvantageScale },
): Float64Array {
  const advantages = new Float64Array(rewards.length);
  if (!Number.isInteger(group) || group < 1 || rewards.length % group !== 0) {
    throw new RangeError(
      `cannot compute advantages: ${rewards.length} rewards are given in groups of ${group}, ` +
        "must be whole groups",
    );
  }
  for (let start = 0; start < rewards.length; start += group) {
    let mean = 0;
    for (let i = start; i < start + group; i++) mean += rewards[i] / group;
    let squares = 0;
    for (let i = start; i < start + group; i++) squares += (rewards[i] - mean) ** 2;
    const freedom = scale === "population" ? group : group - 1;
    const deviation = freedom === 0 ? 0 : Math.sqrt(squares / freedom);
    const divisor = scale === "none" ? 1 : deviation + DEVIATION_EPS;
    for (let i = start; i < start + group; i++) advantages[i] = (rewards[i] - mean) / divisor;
  }
  return advantages;
}

/**
 * How tokens share the loss: all alike ("token", DAPO), answers alike and their tokens alike within them
 * ("sequence", GRPO), or by a constant for all answers of any length ("length", Dr. GRPO).
 */
export type LossShares = "token" | "sequence" | "length";

/**
 * The share of a token of each answer, `lengths` being the tokens that count of all answers of the step.
 * `maxLength` is the longest that an answer may be.
 */
export function tokenShares(
  lengths: readonly number[],
  { shares, maxLength }: { shares: LossShares; maxLength: number },
): number[] {
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  switch (shares) {
    case "token":
      return lengths.map(() => 1 / Math.max(tokens, 1));
    case "sequence":
      return lengths.map((length) => 1 / (Math.max(length, 1) * lengths.length));
    case "length":
      return lengths.map(() => 1 / (lengths.length * maxLength));
  }
}
