/** The seam between running plans and bringing experts in. */

import type { ExpertDemand } from "../plan.ts";

/** Keeps some of a model's experts in memory and brings in those that a step asks for. */
export interface ExpertPager {
  /**
   * Brings in what a step's gate has chosen, in as many turns as the room for experts asks for: after
   * each turn the op runs with the experts that are in, in ascending order over all turns. `predict`
   * computes what the next layer is going to choose, null where nothing is to be fetched ahead.
   * Throws ExpertReadError.
   */
  turns(demand: ExpertDemand, predict: (() => void) | null): Iterable<void>;
}
