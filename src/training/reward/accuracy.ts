/** Solution accuracy: whether the answer is right. */

import type { Reading } from "./reading.ts";

/**
 * 1 where what stands behind `</think>` is the right answer and the only one, else 0. The checker of the
 * prompt's family decides, where there is one; otherwise the answer that is known.
 */
export function accuracyReward({ isRight }: Reading): number | null {
  return isRight === null ? null : Number(isRight);
}
