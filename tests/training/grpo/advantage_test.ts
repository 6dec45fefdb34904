import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { gradeGroups } from "../../../src/training/grpo/advantage.ts";

/** Means 0.5, 1 and 3; the sample's deviations are 1/sqrt(2), 0 and sqrt(2). */
const REWARDS = [0, 1, 1, 1, 2, 4];

function near(actual: Float64Array, expected: readonly number[]): void {
  assertEquals(actual.length, expected.length);
  expected.forEach((value, i) => assertAlmostEquals(actual[i], value, 1e-12));
}

Deno.test("advantages are differences from the group's mean in units of its deviation", () => {
  const graded = gradeGroups(REWARDS, { group: 2, scale: "group" });
  const [a, c] = [0.5 / (Math.SQRT1_2 + 1e-4), 1 / (Math.SQRT2 + 1e-4)];
  near(graded.advantages, [-a, a, 0, 0, -c, c]);
  const population = gradeGroups(REWARDS, { group: 2, scale: "group", deviation: "population" });
  near(population.advantages, [
    ...[-0.5 / (0.5 + 1e-4), 0.5 / (0.5 + 1e-4), 0, 0],
    ...[-1 / (1 + 1e-4), 1 / (1 + 1e-4)],
  ]);
});

Deno.test("Dr. GRPO's advantages are the differences alone", () => {
  near(gradeGroups(REWARDS, { group: 2, scale: "none" }).advantages, [-0.5, 0.5, 0, 0, -1, 1]);
});

Deno.test("a batch's deviation divides the differences of all its groups", () => {
  // Mean 1.5; squares 2.25 + 3 * 0.25 + 0.25 + 6.25 are 9.5.
  const divisor = Math.sqrt(9.5 / 5) + 1e-4;
  near(
    gradeGroups(REWARDS, { group: 2, scale: "batch" }).advantages,
    [-0.5, 0.5, 0, 0, -1, 1].map((difference) => difference / divisor),
  );
});

Deno.test("groups of equal rewards are left out and counted", () => {
  const graded = gradeGroups(REWARDS, { group: 2, scale: "group" });
  assertEquals([graded.groups, graded.dropped], [[0, 2], 1]);
  const all = gradeGroups([0.7, 0.7, 0.7], { group: 3, scale: "none" });
  assertEquals([all.groups, all.dropped, [...all.advantages]], [[], 1, [0, 0, 0]]);
  // 0.1 + 0.2 is not 0.3 to the last bit, and no difference.
  const rounded = gradeGroups([0.1 + 0.2, 0.3], { group: 2, scale: "group" });
  assertEquals([rounded.dropped, [...rounded.advantages]], [1, [0, 0]]);
  assertEquals(gradeGroups([1, 2, 3], { group: 1, scale: "group" }).dropped, 3);
});

Deno.test("rewards that are not finite, and groups that are not whole, are refused", () => {
  assertThrows(
    () => gradeGroups([1, NaN], { group: 2, scale: "group" }),
    RangeError,
    "cannot compute advantages: reward 1 is NaN, must be finite",
  );
  assertThrows(
    () => gradeGroups([1, 2, 3], { group: 2, scale: "group" }),
    RangeError,
    "whole groups",
  );
});
