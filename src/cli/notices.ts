/** What loading a model had to say. */

import type { EngineInfo } from "../engine/types.ts";
import { formatHybridPlan } from "./hybrid_report.ts";
import { printable, type Terminal, write } from "./terminal.ts";

/** Line by line: types converted, what its file leaves out, and what lies on a GPU where not all does. */
export function writeNotices(
  terminal: Pick<Terminal, "writeSync">,
  { conversions, warnings, hybrid }: Pick<EngineInfo, "conversions" | "warnings" | "hybrid">,
): void {
  for (const line of [...conversions, ...warnings]) write(terminal, `${printable(line)}\n`);
  if (hybrid !== undefined) write(terminal, `${formatHybridPlan(hybrid)}\n`);
}
