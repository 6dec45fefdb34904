/** What a phase does again and again. */

import type { StepTotals, StepTrainer } from "../step_trainer.ts";

export interface StepReport {
  /** By the names that TRL gives them, where it has them; null where nothing was read of the step. */
  readonly metrics: Readonly<Record<string, number>> | null;
  /** Of the last update; null where there was nothing to learn from, or nothing was read. */
  readonly totals: StepTotals | null;
  /** Tokens that went forward and back, and tokens that were read and written for samples. */
  readonly trainedTokens: number;
  readonly sampledTokens: number;
}

export interface PhaseWork {
  /** Makes the step of this number, counted from 0; a function of the weights and the number alone. */
  step(step: number): Promise<StepReport>;
}

/** How unevenly the step's tokens chose experts: the most loaded one over the mean, in the worst layer. */
export async function expertLoad(
  trainer: Pick<StepTrainer, "expertCounts">,
): Promise<{ expert_load?: number }> {
  const loads = (await trainer.expertCounts()).map((counts) => {
    const sum = counts.reduce((total, count) => total + count, 0);
    return sum === 0 ? 1 : Math.max(...counts) * counts.length / sum;
  });
  return loads.length === 0 ? {} : { expert_load: Math.max(...loads) };
}
