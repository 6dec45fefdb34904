/** Sums of what engines count. */

import { addSteps, NO_STEPS } from "./step_sizes.ts";
import type { EngineStats } from "./types.ts";

/** Of an engine that has done nothing yet. */
export const NO_STATS: EngineStats = Object.freeze({
  running: 0,
  waiting: 0,
  promptTokens: 0,
  completionTokens: 0,
  pages: Object.freeze({ total: 0, used: 0, kept: 0 }),
  preemptions: 0,
  prefixCache: Object.freeze({ queried: 0, memory: 0, store: 0 }),
  speculation: Object.freeze({ drafted: 0, accepted: 0 }),
  steps: NO_STEPS,
});

/** The counts of two engines that ran one after the other; what is a state is the later one's. */
export function addCounts(earlier: EngineStats, later: EngineStats): EngineStats {
  const { prefixCache: a, speculation: c } = earlier;
  const { prefixCache: b, speculation: d } = later;
  return {
    ...later,
    promptTokens: earlier.promptTokens + later.promptTokens,
    completionTokens: earlier.completionTokens + later.completionTokens,
    preemptions: earlier.preemptions + later.preemptions,
    prefixCache: {
      queried: a.queried + b.queried,
      memory: a.memory + b.memory,
      store: a.store + b.store,
    },
    speculation: { drafted: c.drafted + d.drafted, accepted: c.accepted + d.accepted },
    steps: addSteps(earlier.steps, later.steps),
  };
}
