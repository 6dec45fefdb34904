/** What is logged of sampled answers, by TRL's names. */

import type { Rollout } from "./rollout.ts";
import type { Judged } from "./scorer.ts";

/** Rewards over all answers, and within groups; each function's over the answers that it judges. */
export function rewardMetrics(
  judged: readonly Judged[],
  { rewards, group }: { rewards: readonly number[]; group: number },
): Record<string, number> {
  const deviations: number[] = [];
  for (let start = 0; start < rewards.length; start += group) {
    deviations.push(deviationOf(rewards.slice(start, start + group)));
  }
  const metrics: Record<string, number> = {
    reward: meanOf(rewards),
    reward_std: meanOf(deviations),
    frac_reward_zero_std: meanOf(deviations.map((deviation) => deviation === 0 ? 1 : 0)),
  };
  for (const name of Object.keys(judged[0]?.values ?? {})) {
    const values = judged.map(({ values }) => values[name]).filter((value) => value !== null);
    if (values.length === 0) continue;
    metrics[`rewards/${name}/mean`] = meanOf(values);
    metrics[`rewards/${name}/std`] = deviationOf(values);
  }
  return metrics;
}

export function answerMetrics(rollouts: readonly Rollout[]): Record<string, number> {
  const lengths = rollouts.map(({ answer }) => answer.length);
  const terminated = rollouts.filter(({ ended }) => ended).map(({ answer }) => answer.length);
  const entropies = rollouts.flatMap(({ entropies }) => entropies);
  return {
    "completions/mean_length": meanOf(lengths),
    "completions/min_length": Math.min(...lengths),
    "completions/max_length": Math.max(...lengths),
    "completions/clipped_ratio": 1 - terminated.length / rollouts.length,
    ...(terminated.length > 0 && { "completions/mean_terminated_length": meanOf(terminated) }),
    ...(entropies.length > 0 && { entropy: meanOf(entropies) }),
  };
}

function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
}

/** Of the sample (n - 1), as TRL's; 0 exactly where all are the same. */
function deviationOf(values: readonly number[]): number {
  if (values.every((value) => value === values[0])) return 0;
  const mean = meanOf(values);
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return Math.sqrt(squares / (values.length - 1));
}
