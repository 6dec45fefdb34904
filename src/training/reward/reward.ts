/** The reward of a completion: values of several functions, each in [0, 1], and their weighted mean. */

import { OptionError } from "../../errors.ts";
import { accuracyReward } from "./accuracy.ts";
import { clarityReward } from "./clarity.ts";
import { consistencyReward } from "./consistency.ts";
import { efficiencyReward } from "./efficiency.ts";
import { formatReward } from "./format.ts";
import { Reading } from "./reading.ts";
import { REWARD_NAMES, type RewardName, type RewardValues, type Sample } from "./types.ts";

const FUNCTIONS: Readonly<Record<RewardName, (reading: Reading) => number | null>> = Object.freeze({
  logical_consistency: consistencyReward,
  solution_accuracy: accuracyReward,
  reasoning_clarity: clarityReward,
  efficiency: efficiencyReward,
  format: formatReward,
});

/** Weights of the functions that count; they need not sum up to 1. */
export type RewardWeights = Readonly<Partial<Record<RewardName, number>>>;

export const PRESETS = Object.freeze({
  /** The article's four functions. */
  article: Object.freeze({
    logical_consistency: 0.4,
    solution_accuracy: 0.3,
    reasoning_clarity: 0.2,
    efficiency: 0.1,
  }),
  /** What can be verified, and a little for the form without which nothing can. */
  verifiable: Object.freeze({ solution_accuracy: 0.9, format: 0.1 }),
});

export type PresetName = keyof typeof PRESETS;

export function isPreset(name: string): name is PresetName {
  return Object.hasOwn(PRESETS, name);
}

export interface Judgement {
  /** The weighted mean of the values that there are; null where there is none. */
  readonly reward: number | null;
  /** Of every function, whether it has a weight or not. */
  readonly values: RewardValues;
}

/** Throws OptionError for weights of unknown functions, and such as are no numbers, below 0, or all 0. */
export function checkWeights(
  weights: Readonly<Record<string, number>>,
  { names = REWARD_NAMES }: { names?: readonly string[] } = {},
): void {
  const entries = Object.entries(weights);
  for (const [name, weight] of entries) {
    const isKnown = names.includes(name);
    if (isKnown && Number.isFinite(weight) && weight >= 0) continue;
    throw new OptionError(
      isKnown
        ? `cannot weigh rewards: the weight of ${name} is ${weight}, must be a number of at least 0`
        : `cannot weigh rewards: ${JSON.stringify(name)} is no reward function, must be one of ` +
          names.join(", "),
    );
  }
  if (!entries.some(([, weight]) => weight > 0)) {
    throw new OptionError("cannot weigh rewards: no weight is above 0, at least one must be");
  }
}

/** Judges completions by these weights. A function of the sample alone: equal samples get equal rewards. */
export function createJudge(weights: RewardWeights): (sample: Sample) => Judgement {
  checkWeights(weights);
  return (sample) => {
    const values = rewardValues(sample);
    return { values, reward: weightedMean(values, weights) };
  };
}

/** The value of each function for a completion. */
export function rewardValues(sample: Sample): RewardValues {
  const reading = new Reading(sample);
  const entries = REWARD_NAMES.map((name) => [name, FUNCTIONS[name](reading)]);
  return Object.fromEntries(entries);
}

/**
 * Null where no function has a value. A function that has none for a prompt has no weight there either.
 * Which of ours have one is decided by prompt and reference alone, so all completions of a group are
 * weighed alike.
 */
export function weightedMean(
  values: Readonly<Record<string, number | null>>,
  weights: Readonly<Record<string, number>>,
): number | null {
  let [sum, all] = [0, 0];
  for (const [name, weight] of Object.entries(weights)) {
    const value = values[name];
    if (value === null) continue;
    sum += weight * value;
    all += weight;
  }
  return all === 0 ? null : sum / all;
}
