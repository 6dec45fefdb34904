/** Where a trainer's rewards come from: functions of its own, or another server. */

import { FormatError, OptionError } from "../../errors.ts";
import { promptQuestion } from "./question.ts";
import {
  checkWeights,
  createJudge,
  rewardValues,
  type RewardWeights,
  weightedMean,
} from "./reward.ts";
import { REWARD_NAMES, type RewardName, type Sample } from "./types.ts";

/** Rewards of a batch, one entry a sample. */
export interface BatchRewards {
  readonly rewards: readonly number[];
  /** In [0, 1], for leaving out groups that are all right or all wrong; the reward where nothing else is. */
  readonly scores: readonly number[];
  /** Of each function; null where it has no value for a prompt. */
  readonly functions: Readonly<Record<string, readonly (number | null)[]>>;
}

export type RewardSource = (
  samples: readonly Sample[],
  options?: { readonly signal?: AbortSignal },
) => Promise<BatchRewards>;

/** Further fields of a batch by name, one entry a sample: `answer`, `family`, `solution` and what else there is. */
export type Columns = Readonly<Record<string, readonly unknown[]>>;

/**
 * A reward function as TRL calls it, `f(prompts, completions, **columns)`; null where it does not apply.
 * Its three positional arguments are TRL's.
 */
export type ColumnReward = (
  prompts: readonly string[],
  completions: readonly string[],
  columns: Columns,
) => readonly (number | null)[] | Promise<readonly (number | null)[]>;

function columnText(columns: Columns, { name, i }: { name: string; i: number }) {
  const value = columns[name]?.[i];
  return value === undefined || value === null ? undefined : String(value);
}

/** One of our functions in TRL's shape. Prompts may be rendered by a chat template. */
export function columnReward(name: RewardName): ColumnReward {
  const judge = createJudge({ [name]: 1 });
  return (prompts, completions, columns) =>
    prompts.map((prompt, i) => {
      const { question, opened } = promptQuestion(prompt);
      return judge({
        ...{ prompt: question, completion: completions[i], opened },
        reference: {
          answer: columnText(columns, { name: "answer", i }),
          family: columnText(columns, { name: "family", i }),
          solution: columnText(columns, { name: "solution", i }),
        },
      }).reward;
    });
}

export interface LocalRewardsOptions {
  readonly weights: RewardWeights;
  /** More functions, with their weights. */
  readonly functions?: Readonly<
    Record<string, { readonly weight: number; readonly of: ColumnReward }>
  >;
}

/** Rewards of our functions and of given ones. Throws FormatError for samples that nothing can judge. */
export function localRewards({ weights, functions = {} }: LocalRewardsOptions): RewardSource {
  const given = Object.entries(functions);
  const all = {
    ...weights,
    ...Object.fromEntries(given.map(([name, { weight }]) => [name, weight])),
  };
  checkWeights(all, { names: [...REWARD_NAMES, ...newNames(functions)] });
  return async (samples, { signal } = {}) => {
    const values: Record<string, readonly (number | null)[]> = {};
    const judged = samples.map((sample) => {
      signal?.throwIfAborted();
      return rewardValues(sample);
    });
    for (const name of REWARD_NAMES) values[name] = judged.map((values) => values[name]);
    const prompts = samples.map(({ prompt }) => prompt);
    const completions = samples.map(({ completion }) => completion);
    for (const [name, { of }] of given) {
      values[name] = await of(prompts, completions, columnsOf(samples));
      checkValues(values[name], { name, count: samples.length });
    }
    const rewards = samples.map((_, i) => {
      const entries = Object.entries(values).map(([name, column]) => [name, column[i]]);
      const reward = weightedMean(Object.fromEntries(entries), all);
      if (reward !== null) return reward;
      throw new FormatError(
        `cannot judge sample ${i}: its reference gives the weighed functions nothing to judge by, ` +
          "must have an answer or a family",
      );
    });
    const scores = values.solution_accuracy.map((value, i) => value ?? rewards[i]);
    return { rewards, scores, functions: values };
  };
}

function newNames(functions: NonNullable<LocalRewardsOptions["functions"]>): string[] {
  const names = Object.keys(functions);
  const taken = names.find((name) => (REWARD_NAMES as readonly string[]).includes(name));
  if (taken === undefined) return names;
  throw new OptionError(
    `cannot weigh rewards: a further function is called ${taken}, must have a name of its own`,
  );
}

function checkValues(
  given: readonly (number | null)[],
  { name, count }: { name: string; count: number },
): void {
  const wrong = given.find((value) => value !== null && !Number.isFinite(value));
  if (given.length === count && wrong === undefined) return;
  throw FormatError.of(
    `take the rewards of ${name}`,
    "their list",
    given.length === count ? `one with ${wrong}` : `${given.length} long`,
    `${count} finite numbers or nulls`,
  );
}

/** References as columns. */
function columnsOf(samples: readonly Sample[]): Columns {
  const column = (name: "answer" | "family" | "solution") =>
    samples.map(({ reference }) => reference[name] ?? null);
  return { answer: column("answer"), family: column("family"), solution: column("solution") };
}
