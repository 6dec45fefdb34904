/** What is logged of a step, under the names of TRL's GRPOTrainer, so that its users' dashboards read it. */

import { equalGroups } from "./advantage.ts";
import type { PolicyObjective } from "./objective_math.ts";
import type { AnswerLength } from "./overlong.ts";
import { statisticsOf } from "./statistics.ts";

export type Metrics = Readonly<Record<string, number>>;

/** `reward` and `reward_std` over all answers, each function's under `rewards/`, and groups of equal rewards. */
export function rewardMetrics(
  { rewards, functions }: {
    readonly rewards: readonly number[];
    readonly functions: Readonly<Record<string, readonly (number | null)[]>>;
  },
  { group }: { group: number },
): Metrics {
  const metrics: Record<string, number> = {};
  for (const [name, values] of Object.entries(functions)) {
    const statistics = statisticsOf(values);
    // A function that applies to nothing has no mean.
    if (statistics === null) continue;
    metrics[`rewards/${name}/mean`] = statistics.mean;
    metrics[`rewards/${name}/std`] = statistics.deviation;
  }
  const all = statisticsOf(rewards);
  if (all === null) return metrics;
  const groups = rewards.length / group;
  return {
    ...metrics,
    reward: all.mean,
    reward_std: all.deviation,
    frac_reward_zero_std: equalGroups(rewards, { group }) / groups,
  };
}

/** Lengths of all answers, and of those that ended by themselves (zeros where none did). */
export function completionMetrics(answers: readonly AnswerLength[]): Metrics {
  const all = answers.map(({ length }) => length);
  const ended = answers.filter(({ isTruncated }) => !isTruncated).map(({ length }) => length);
  return {
    ...lengths(all, ""),
    ...lengths(ended, "terminated_"),
    "completions/clipped_ratio": (all.length - ended.length) / Math.max(1, all.length),
  };
}

function lengths(values: readonly number[], kind: string): Metrics {
  const [least, most] = values.reduce(
    ([least, most], value) => [Math.min(least, value), Math.max(most, value)],
    [Infinity, 0],
  );
  return {
    [`completions/mean_${kind}length`]: statisticsOf(values)?.mean ?? 0,
    [`completions/min_${kind}length`]: values.length === 0 ? 0 : least,
    [`completions/max_${kind}length`]: most,
  };
}

/** Clipping, KL and entropy; the latter two where they are known. */
export function policyMetrics({ clip, kl, entropy }: PolicyObjective): Metrics {
  return {
    "clip_ratio/low_mean": clip.low,
    "clip_ratio/low_min": clip.lowMin,
    "clip_ratio/high_mean": clip.high,
    "clip_ratio/high_max": clip.highMax,
    "clip_ratio/region_mean": clip.low + clip.high,
    ...(kl !== null && { kl }),
    ...(entropy !== null && { entropy }),
  };
}
