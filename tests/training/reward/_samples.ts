/** Samples for tests of rewards. */

import { createJudge, PRESETS } from "../../../src/training/reward/mod.ts";
import { Reading } from "../../../src/training/reward/reading.ts";
import type { Reference, RewardValues, Sample } from "../../../src/training/reward/types.ts";

/** The sum that most tests are about. */
export const SUM = Object.freeze({
  prompt: "What is 47 + 38?",
  reply: "47 + 38 = 85.",
  solution: "47 + 38: 7 + 8 = 15; 4 + 3 + 1 = 8; 47 + 38 = 85",
});

export const SUM_REFERENCE: Reference = Object.freeze({
  family: "addition",
  answer: "85",
  solution: SUM.solution,
});

export function sumSample(reasoning: string, answer: string): Sample {
  return {
    prompt: SUM.prompt,
    completion: `<think>\n${reasoning}\n</think>\n\n${answer}`,
    reference: SUM_REFERENCE,
  };
}

/** A sample whose reasoning and answer are given, about any prompt. */
export function sample(
  prompt: string,
  parts: { reasoning: string; answer: string; reference: Reference },
): Sample {
  const { reasoning, answer, reference } = parts;
  return { prompt, completion: `<think>\n${reasoning}\n</think>\n\n${answer}`, reference };
}

export function readingOf(given: Sample): Reading {
  return new Reading(given);
}

const article = createJudge(PRESETS.article);
const verifiable = createJudge(PRESETS.verifiable);

/** Values of all functions, and the rewards of both presets. */
export function judged(
  given: Sample,
): { values: RewardValues; article: number; verifiable: number } {
  const { values, reward } = article(given);
  return { values, article: reward!, verifiable: verifiable(given).reward! };
}
