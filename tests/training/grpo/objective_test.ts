import { assertAlmostEquals, assertEquals } from "@std/assert";
import { gradeGroups } from "../../../src/training/grpo/advantage.ts";
import { policyMetrics } from "../../../src/training/grpo/metrics.ts";
import { policyObjective } from "../../../src/training/grpo/objective_math.ts";
import type { LossShares } from "../../../src/training/policy.ts";
import { fixtureCases } from "../_fixtures.ts";

const SHARES: Readonly<Record<string, LossShares>> = Object.freeze({
  bnpo: "token",
  dapo: "token",
  grpo: "sequence",
  dr_grpo: "length",
});

function probabilities(logits: Float64Array): Float64Array {
  const largest = Math.max(...logits);
  const sizes = logits.map((logit) => Math.exp(logit - largest));
  const total = sizes.reduce((sum, size) => sum + size, 0);
  return sizes.map((size) => size / total);
}

for (const [name, { arrays, info }] of fixtureCases("grpo.")) {
  Deno.test(`${name}: loss, statistics and gradients are PyTorch's in float64`, () => {
    const [answers, length, vocab] = arrays.shape("logits");
    const { temperature } = info;
    const logits = Float64Array.from(arrays.get("logits", "F32"));
    const [mask, ids] = [arrays.get("mask", "F32"), arrays.get("token_ids", "I32")];
    const [old, reference] = [arrays.get("old_logprobs", "F32"), arrays.get("ref_logprobs", "F32")];
    const { advantages } = gradeGroups([...arrays.get("rewards", "F64")], {
      group: info.group,
      scale: info.scale ? "group" : "none",
      deviation: info.ddof === 0 ? "population" : "sample",
    });
    const rows = Array.from({ length: answers * length }, (_, row) => row);
    const softmax = rows.map((row) =>
      probabilities(logits.subarray(row * vocab, (row + 1) * vocab).map((x) => x / temperature))
    );
    const counted = Array.from(
      { length: answers },
      (_, a) => rows.slice(a * length, (a + 1) * length).filter((row) => mask[row] !== 0),
    );
    const objective = policyObjective(
      counted.map((tokens, a) => ({
        advantage: advantages[a],
        logProbs: tokens.map((row) => Math.log(softmax[row][ids[row]])),
        oldLogProbs: tokens.map((row) => old[row]),
        referenceLogProbs: tokens.map((row) => reference[row]),
        entropies: tokens.map((row) => -softmax[row].reduce((sum, p) => sum + p * Math.log(p), 0)),
      })),
      {
        clipLow: info.eps_lo,
        clipHigh: info.eps_hi,
        klCoefficient: info.beta,
        shares: SHARES[info.ltype],
        maxLength: info.max_completion_length,
      },
    );
    // The oracle rounded its inputs to float32 and computed in float64.
    assertAlmostEquals(objective.loss, info.loss, 1e-7);
    assertAlmostEquals(objective.kl!, info.mean_kl, 1e-7);
    const metrics = policyMetrics(objective);
    assertAlmostEquals(metrics["clip_ratio/region_mean"], info.clip_fraction, 1e-12);
    assertAlmostEquals(
      metrics["clip_ratio/low_mean"] + metrics["clip_ratio/high_mean"],
      info.clip_fraction,
      1e-12,
    );
    const expected = arrays.get("grad_logits", "F64");
    counted.forEach((tokens, a) =>
      tokens.forEach((row, t) =>
        softmax[row].forEach((p, id) => {
          const slope = objective.gradients[a][t] * ((id === ids[row] ? 1 : 0) - p) / temperature;
          assertAlmostEquals(slope, expected[row * vocab + id], 1e-7);
        })
      )
    );
  });
}

const OPTIONS = { clipLow: 0.2, clipHigh: 0.28, klCoefficient: 0, maxLength: 4 } as const;

/** Two answers whose ratios are worked out by hand. */
const ANSWERS = [
  { advantage: 1, logProbs: [Math.log(0.6)], oldLogProbs: [Math.log(0.4)], entropies: [0.5] },
  {
    advantage: -2,
    logProbs: [Math.log(0.2), Math.log(0.5), Math.log(0.9)],
    oldLogProbs: [Math.log(0.4), Math.log(0.5), Math.log(0.6)],
    entropies: [1, 2, 0.1],
  },
];

Deno.test("ratios are clipped where the advantage would push them on, and not on their way back", () => {
  const objective = policyObjective(ANSWERS, { ...OPTIONS, shares: "token" });
  // 1.5 is held at 1.28; of 0.5, 1 and 1.5 under -2 only 0.5 is held, at 0.8.
  assertAlmostEquals(objective.loss, (-1.28 + 1.6 + 2 + 3) / 4, 1e-12);
  assertAlmostEquals(objective.gradients[0][0], 0, 1e-12);
  [0, 2 / 4, 3 / 4].forEach((slope, t) =>
    assertAlmostEquals(objective.gradients[1][t], slope, 1e-12)
  );
  assertAlmostEquals(objective.ratio, (1.5 + 0.5 + 1 + 1.5) / 4, 1e-12);
  assertEquals(objective.kl, null);
  const metrics = policyMetrics(objective);
  const expected = {
    "clip_ratio/low_mean": 1 / 4,
    "clip_ratio/low_min": 0,
    "clip_ratio/high_mean": 1 / 4,
    "clip_ratio/high_max": 1,
    "clip_ratio/region_mean": 1 / 2,
    entropy: 3.6 / 4,
  };
  assertEquals(Object.keys(metrics), Object.keys(expected));
  for (const [name, value] of Object.entries(expected)) {
    assertAlmostEquals(metrics[name], value, 1e-12, name);
  }
});

Deno.test("tokens share the loss alike, within their answers, or by the longest length", () => {
  const loss = (shares: LossShares) => policyObjective(ANSWERS, { ...OPTIONS, shares }).loss;
  assertAlmostEquals(loss("token"), (-1.28 + 6.6) / 4, 1e-12);
  assertAlmostEquals(loss("sequence"), (-1.28 + 6.6 / 3) / 2, 1e-12);
  assertAlmostEquals(loss("length"), (-1.28 + 6.6) / (2 * 4), 1e-12);
});

Deno.test("k3 is e^d - d - 1 of the reference's lead d, and pulls towards the reference", () => {
  const answer = {
    advantage: 0,
    logProbs: [Math.log(0.25)],
    oldLogProbs: [Math.log(0.25)],
    referenceLogProbs: [Math.log(0.5)],
  };
  const objective = policyObjective([answer], { ...OPTIONS, klCoefficient: 0.1, shares: "token" });
  const kl = 2 - Math.log(2) - 1;
  assertAlmostEquals(objective.kl!, kl, 1e-12);
  assertAlmostEquals(objective.loss, 0.1 * kl, 1e-12);
  assertAlmostEquals(objective.gradients[0][0], 0.1 * (1 - 2), 1e-12);
  assertAlmostEquals(policyMetrics(objective).kl, kl, 1e-12);
});

Deno.test("answers without tokens that count change nothing but how sequences share", () => {
  const empty = { advantage: 5, logProbs: [], oldLogProbs: [], entropies: [] };
  const loss = (shares: LossShares) =>
    policyObjective([...ANSWERS, empty], { ...OPTIONS, shares }).loss;
  assertAlmostEquals(loss("token"), 5.32 / 4, 1e-12);
  assertAlmostEquals(loss("sequence"), (-1.28 + 2.2) / 3, 1e-12);
  const nothing = policyObjective([empty], { ...OPTIONS, shares: "token" });
  assertEquals([nothing.loss, nothing.tokens, nothing.kl, nothing.entropy], [0, 0, null, null]);
  assertEquals(policyMetrics(nothing)["clip_ratio/low_min"], 0);
});
