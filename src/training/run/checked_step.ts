/** Steps whose numbers are looked at before anything rests on them. */

import { TrainingError } from "../../errors.ts";
import type { StepReport } from "../phases/work.ts";
import type { PhaseRecipe } from "./phase_recipe.ts";
import { notFinite } from "./weights_file.ts";
import type { Workbench } from "./workbench.ts";

export interface CheckedPlace {
  readonly phase: PhaseRecipe;
  readonly bench: Workbench;
  /** Steps that there are with this one. */
  readonly steps: number;
  /** How numbers are kept: in f16 a gradient may be infinite, and its step is skipped. */
  readonly storage: string;
  /** The file that holds the last whole state. */
  readonly lastWeights: string | null;
}

/**
 * Makes a step. Throws TrainingError with the tensor's name where it has left a number that is not finite;
 * the checkpoints before it stay.
 */
export async function checkedStep(
  make: () => Promise<StepReport>,
  { phase, bench, steps, storage, lastWeights }: CheckedPlace,
): Promise<StepReport> {
  let report: StepReport | null = null;
  let reason = "";
  try {
    report = await make();
  } catch (error) {
    // Sampling meets logits that are not finite first.
    if (!(error instanceof Error) || await notFinite(bench) === null) throw error;
    reason = `; ${error.message}`;
  }
  const { totals } = report ?? { totals: null };
  const isFine = report !== null &&
    (totals === null || (Number.isFinite(totals.loss) &&
      (Number.isFinite(totals.gradientNorm) || storage === "f16")));
  if (isFine) return report!;
  await bench.steps.collect(["value", "gradient"]);
  const found = await notFinite(bench);
  const what = found === null
    ? `the loss is ${totals?.loss}, its gradients' norm ${totals?.gradientNorm}`
    : `the ${found.slot} of ${JSON.stringify(found.tensor)} holds ${found.value}`;
  throw new TrainingError(
    `cannot go on with ${phase.name}: after step ${steps} ${what}, ` +
      `must be finite; ${lastWeights} is the last whole state${reason}`,
  );
}
