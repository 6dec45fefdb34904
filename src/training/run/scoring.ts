/** The rewards that a recipe asks for. */

import { isRight, type Scorer } from "../phases/scorer.ts";
import type { RewardRecipe } from "./recipe.ts";

/** 1 for a right answer, 0 for any other: the plain verifiable reward. */
const VERIFIABLE: Scorer = {
  score: (samples) =>
    Promise.resolve(samples.map((sample) => {
      const reward = isRight(sample) ? 1 : 0;
      return { reward, values: { solution_accuracy: reward } };
    })),
};

export function openScorer(_: RewardRecipe): Scorer {
  return VERIFIABLE;
}
