/** Comparing what gates chose with what is recorded. */

import { assert, assertEquals } from "@std/assert";
import type { LayerRouting } from "../../src/model/evaluate.ts";
import type { RecordedRouting } from "./_goldens.ts";

/**
 * The same experts for each token, whatever their order, and each expert's weight within the tolerance.
 */
export function assertSameRouting(
  actual: Pick<LayerRouting, "topK" | "experts" | "weights">,
  expected: RecordedRouting,
  { tolerance, what }: { tolerance: number; what: string },
): void {
  const { topK } = actual;
  assertEquals(actual.experts.length, expected.experts.length, what);
  for (let start = 0; start < expected.experts.length; start += topK) {
    const ours = choices(actual, { start, topK });
    const theirs = choices(expected, { start, topK });
    const token = start / topK;
    assertEquals(ours.map(([id]) => id), theirs.map(([id]) => id), `${what}, token ${token}`);
    for (const [i, [id, weight]] of theirs.entries()) {
      const error = Math.abs(ours[i][1] - weight);
      const label = `${what}, token ${token}: the weight of expert ${id}`;
      assert(error <= tolerance, `${label} is off by ${error}, must be within ${tolerance}`);
    }
  }
}

/** A token's experts with their weights, in the order of their ids. */
function choices(
  { experts, weights }: RecordedRouting,
  { start, topK }: { start: number; topK: number },
): [id: number, weight: number][] {
  return Array.from({ length: topK }, (_, i): [number, number] => [
    experts[start + i],
    weights[start + i],
  ]).sort(([a], [b]) => a - b);
}
