/** Experts that are brought in from a file when they are chosen. */

import type { ExpertTraffic } from "../backend.ts";
import type { ExpertDemand } from "./plan.ts";

/** Keeps some of a model's experts in memory and brings in those that a step asks for. */
export interface ExpertPager {
  /**
   * Brings in what a step's gate has chosen, in as many turns as the room for experts asks for: after
   * each turn the op runs with the experts that are in, in ascending order over all turns.
   */
  turns(demand: ExpertDemand): Iterable<void>;
  traffic(): readonly ExpertTraffic[];
  close(): void;
}
