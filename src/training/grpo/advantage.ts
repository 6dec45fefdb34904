/**
 * Advantages of a batch of groups, each the answers to one prompt, and which of the groups have anything
 * to teach: where all rewards are equal, all advantages are 0 (DAPO leaves such groups out, Yu et al.
 * 2025, section 3.2).
 */

import { DEVIATION_EPS, groupAdvantages } from "../policy.ts";
import { statisticsOf } from "./statistics.ts";

/**
 * What differences from the group's mean are divided by, as TRL's `scale_rewards` has it: the deviation of
 * the group's rewards (GRPO), that of all rewards of the batch, or nothing (Dr. GRPO, Liu et al. 2025).
 */
export type RewardScale = "group" | "batch" | "none";

export interface AdvantageOptions {
  /** Answers to a prompt, side by side in the batch. */
  readonly group: number;
  readonly scale: RewardScale;
  /** Of the sample (n - 1) as TRL has it, or of the population (n) as DeepSeekMath writes it. */
  readonly deviation?: "sample" | "population";
}

export interface GroupedAdvantages {
  /** One an answer; exactly 0 in groups of equal rewards. */
  readonly advantages: Float64Array;
  /** The groups whose rewards differ, by number. */
  readonly groups: readonly number[];
  /** How many groups are left out. */
  readonly dropped: number;
}

/** Deviations below this are rounding. */
const EQUAL = 1e-8;

/** Throws RangeError for rewards that are not finite or no whole groups. */
export function gradeGroups(
  rewards: readonly number[],
  { group, scale, deviation = "sample" }: AdvantageOptions,
): GroupedAdvantages {
  const wrong = rewards.findIndex((reward) => !Number.isFinite(reward));
  if (wrong >= 0) {
    throw new RangeError(
      `cannot compute advantages: reward ${wrong} is ${rewards[wrong]}, must be finite`,
    );
  }
  const divide = scale === "group" ? deviation : "none";
  const advantages = groupAdvantages(rewards, { group, scale: divide });
  if (scale === "batch") {
    const divisor = (statisticsOf(rewards)?.deviation ?? 0) + DEVIATION_EPS;
    for (let i = 0; i < advantages.length; i++) advantages[i] /= divisor;
  }
  const groups: number[] = [];
  for (let start = 0; start < rewards.length; start += group) {
    const end = start + group;
    if (deviationOf(rewards.slice(start, end)) > EQUAL) groups.push(start / group);
    else advantages.fill(0, start, end);
  }
  return { advantages, groups, dropped: rewards.length / group - groups.length };
}

/** The deviation of a group's rewards. */
export function deviationOf(rewards: readonly number[]): number {
  return statisticsOf(rewards)?.deviation ?? 0;
}

/** How many groups have rewards that are all equal. */
export function equalGroups(rewards: readonly number[], { group }: { group: number }): number {
  let count = 0;
  for (let start = 0; start < rewards.length; start += group) {
    if (deviationOf(rewards.slice(start, start + group)) <= EQUAL) count++;
  }
  return count;
}
