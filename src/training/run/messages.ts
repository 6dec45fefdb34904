/** What a run says to people of how its phases end. */

import type { PhaseRecipe } from "./phase_recipe.ts";

/** How a run ends that was told to. */
export function stopped(phase: PhaseRecipe, step: number) {
  const message = `Stopped in ${phase.name} after step ${step}. ` +
    "The same command with --resume goes on from here.";
  return { outcome: "stopped" as const, message };
}

/** Why a run ends whose model is not good enough. */
export function belowGate(
  { name, gate, share }: PhaseRecipe,
  { accuracy, used, budget }: { accuracy: number; used: number; budget: number },
): string {
  return `${name} ends at ${percent(accuracy)} of the held-out problems, below its gate of ` +
    `${percent(gate)}, and its compute is used up (${(used / 1e12).toPrecision(3)} of ` +
    `${(budget / 1e12).toPrecision(3)} TFLOP, ${
      percent(share)
    } of the run's). No model is shipped. ` +
    "With more compute.teraflops, --resume goes on.";
}

export function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
