/** What becomes of answers that reach the length limit (DAPO, Yu et al. 2025, section 3.4). */

import { OptionError } from "../../errors.ts";

export interface SoftLimit {
  /** Tokens that an answer may have at most. */
  readonly maxLength: number;
  /** Tokens before that limit over which the punishment grows. */
  readonly margin: number;
}

/**
 * What is added to the reward of an answer of `length` tokens, DAPO's equation 13: 0 up to
 * `maxLength - margin`, falling evenly to -1 at `maxLength`, and -1 beyond.
 */
export function overlongPunishment(length: number, { maxLength, margin }: SoftLimit): number {
  if (!(margin > 0 && margin <= maxLength)) {
    throw new OptionError(
      `cannot punish long answers: the margin is ${margin} tokens, must be 1 to ${maxLength}`,
    );
  }
  const free = maxLength - margin;
  return -Math.min(1, Math.max(0, length - free) / margin);
}

/** An answer's tokens, and whether the length limit has cut it off. */
export interface AnswerLength {
  readonly length: number;
  readonly isTruncated: boolean;
}

/**
 * How many tokens of each answer count in the loss: none of an answer that was cut off, where those are
 * masked (overlong filtering), since its reward says nothing of what it would have become.
 */
export function countedTokens(
  answers: readonly AnswerLength[],
  { maskTruncated }: { maskTruncated: boolean },
): number[] {
  return answers.map(({ length, isTruncated }) => maskTruncated && isTruncated ? 0 : length);
}
