import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { completionMetrics, rewardMetrics } from "../../../src/training/grpo/metrics.ts";
import { countedTokens, overlongPunishment } from "../../../src/training/grpo/overlong.ts";
import { OptionError } from "../../../src/errors.ts";

Deno.test("rewards are logged under TRL's names, and null has no part in a mean", () => {
  const metrics = rewardMetrics({
    rewards: [0, 1, 0.5, 0.5],
    functions: {
      accuracy: [0, 1, null, 1],
      efficiency: [null, null, null, null],
      one: [3, null, null, null],
    },
  }, { group: 2 });
  assertEquals(Object.keys(metrics), [
    "rewards/accuracy/mean",
    "rewards/accuracy/std",
    "rewards/one/mean",
    "rewards/one/std",
    "reward",
    "reward_std",
    "frac_reward_zero_std",
  ]);
  assertAlmostEquals(metrics["rewards/accuracy/mean"], 2 / 3, 1e-12);
  assertAlmostEquals(metrics["rewards/accuracy/std"], Math.sqrt(1 / 3), 1e-12);
  assertEquals([metrics["rewards/one/mean"], metrics["rewards/one/std"]], [3, 0]);
  assertEquals([metrics.reward, metrics.frac_reward_zero_std], [0.5, 0.5]);
  assertAlmostEquals(metrics.reward_std, Math.sqrt(0.5 / 3), 1e-12);
});

Deno.test("lengths are logged of all answers and of those that ended by themselves", () => {
  const answers = [3, 9, 4, 10].map((length) => ({ length, isTruncated: length === 10 }));
  assertEquals(completionMetrics(answers), {
    "completions/mean_length": 6.5,
    "completions/min_length": 3,
    "completions/max_length": 10,
    "completions/mean_terminated_length": 16 / 3,
    "completions/min_terminated_length": 3,
    "completions/max_terminated_length": 9,
    "completions/clipped_ratio": 0.25,
  });
  const cut = completionMetrics([{ length: 10, isTruncated: true }]);
  assertEquals(
    [cut["completions/mean_terminated_length"], cut["completions/min_terminated_length"]],
    [0, 0],
  );
  assertEquals(cut["completions/clipped_ratio"], 1);
});

Deno.test("the punishment of length begins at the margin and ends at -1", () => {
  const limit = { maxLength: 100, margin: 20 };
  const at = (length: number) => overlongPunishment(length, limit);
  assertEquals([0, 80, 85, 90, 100, 150].map(at).map((x) => x + 0), [0, 0, -0.25, -0.5, -1, -1]);
  for (const margin of [0, 101, NaN]) {
    assertThrows(() => overlongPunishment(5, { maxLength: 100, margin }), OptionError, "margin");
  }
});

Deno.test("answers that were cut off count only where they are not masked", () => {
  const answers = [{ length: 5, isTruncated: false }, { length: 8, isTruncated: true }];
  assertEquals(countedTokens(answers, { maskTruncated: true }), [5, 0]);
  assertEquals(countedTokens(answers, { maskTruncated: false }), [5, 8]);
});
