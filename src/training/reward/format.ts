/** Format: one block of reasoning, and an answer behind it. */

import type { Reading } from "./reading.ts";

/** 1 or 0, as DeepSeek-R1-Zero's format reward. */
export function formatReward({ parts }: Reading): number {
  return Number(parts.fault === null);
}
