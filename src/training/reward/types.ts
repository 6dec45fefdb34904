/** What rewards are computed from, and what they are called. */

/** One of the answers that a multiple-choice question offers. */
export interface Choice {
  readonly label: string;
  readonly text: string;
}

/** What is known of a prompt beside its text. `answer` or `family` must be there. */
export interface Reference {
  /** The bare right answer: a number, a fraction, an expression, the label of a choice, yes or no, a word. */
  readonly answer?: string;
  /** The family of generated problems; its checker judges answers by the prompt alone. */
  readonly family?: string;
  /** Read from the prompt's lines where they are left out. */
  readonly choices?: readonly Choice[];
  /** The shortest reasoning that is known to lead to the answer, without its tags. */
  readonly solution?: string;
}

/** A completion to be judged. */
export interface Sample {
  /** The question, without the markers of a chat template. */
  readonly prompt: string;
  readonly completion: string;
  readonly reference: Reference;
  /** The template has written `<think>` already, so the completion begins inside; false by default. */
  readonly opened?: boolean;
}

/** The functions, by the names under which they are logged. */
export const REWARD_NAMES = Object.freeze(
  [
    "logical_consistency",
    "solution_accuracy",
    "reasoning_clarity",
    "efficiency",
    "format",
  ] as const,
);

export type RewardName = typeof REWARD_NAMES[number];

/** Each function's value in [0, 1]; null where the prompt and its reference give it nothing to judge by. */
export type RewardValues = Readonly<Record<RewardName, number | null>>;
