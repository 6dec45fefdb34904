/** GRPO's advantages, shares and objective on any backend that trains, against PyTorch. */

import { assertAlmostEquals } from "@std/assert";
import { TOTALS, TOTALS_ROWS } from "../../src/backend/training.ts";
import { groupAdvantages, type LossShares, tokenShares } from "../../src/training/policy.ts";
import { assertGradient, fixtureCases } from "./_fixtures.ts";
import { clockOf, type TrainingConformance } from "./_update_conformance.ts";

const SHARES: Readonly<Record<string, LossShares>> = Object.freeze({
  bnpo: "token",
  dapo: "token",
  grpo: "sequence",
  dr_grpo: "length",
});

export function policyTests({ name: backendName, open }: TrainingConformance): void {
  for (const [name, { arrays, info }] of fixtureCases("grpo.")) {
    Deno.test(`${backendName}, ${name}: advantages, loss, statistics and gradients are PyTorch's`, async () => {
      const backend = await open();
      const [answers, length, vocab] = arrays.shape("logits");
      const rows = answers * length;
      const advantages = groupAdvantages(arrays.get("rewards", "F64"), {
        group: info.group,
        scale: !info.scale ? "none" : info.ddof === 0 ? "population" : "sample",
      });
      arrays.get("advantages", "F64").forEach((expected, i) =>
        assertAlmostEquals(advantages[i], expected, 1e-9)
      );
      const mask = arrays.get("mask", "F32");
      const lengths = Array.from(
        { length: answers },
        (_, a) => mask.subarray(a * length, (a + 1) * length).reduce((sum, is) => sum + is, 0),
      );
      const options = { shares: SHARES[info.ltype], maxLength: info.max_completion_length };
      const shares = tokenShares(lengths, options);
      const perToken = (values: ArrayLike<number>) =>
        Float32Array.from({ length: rows }, (_, t) => values[Math.floor(t / length)]);
      const buffer = (values: Float32Array, width = 1) => {
        const made = backend.createBuffer({ kind: "f32", rows: values.length / width, width });
        backend.write(made, values);
        return made;
      };
      const logits = buffer(arrays.get("logits", "F32"), vocab);
      const targets = backend.createBuffer({ kind: "i32", rows, width: 1 });
      backend.write(targets, arrays.get("token_ids", "I32"));
      const logProbs = buffer(new Float32Array(rows));
      const gradient = buffer(new Float32Array(rows));
      const totals = buffer(new Float32Array(TOTALS_ROWS));
      const { temperature } = info;
      backend.submit(backend.recordTraining((ops) => {
        ops.tokenLogProbs({ logits, targets, temperature, out: logProbs, rows });
        ops.policyLoss({
          logProbs,
          tokenWeights: buffer(perToken(shares).map((share, t) => share * mask[t])),
          oldLogProbs: buffer(arrays.get("old_logprobs", "F32")),
          referenceLogProbs: buffer(arrays.get("ref_logprobs", "F32")),
          advantages: buffer(perToken(advantages)),
          ...{ clipLow: info.eps_lo, clipHigh: info.eps_hi, klCoefficient: info.beta },
          ...{ clock: clockOf(backend, { rate: 0 }), gradient, totals, rows },
        });
        ops.tokenLogProbsBackward({
          ...{ logits, targets, temperature, outGradient: gradient, logitsGradient: logits, rows },
        });
      }));
      const sums = await backend.read(totals);
      assertAlmostEquals(sums[TOTALS.loss], info.loss, 1e-5);
      const tokens = sums[TOTALS.tokens];
      assertAlmostEquals(sums[TOTALS.kl] / tokens, info.mean_kl, 1e-5);
      assertAlmostEquals(sums[TOTALS.clipped] / tokens, info.clip_fraction, 1e-6);
      (await backend.read(logProbs)).forEach((value, t) =>
        assertAlmostEquals(value, arrays.get("logprobs", "F64")[t], 1e-6)
      );
      assertGradient(await backend.read(logits), arrays.get("grad_logits", "F64"), "grad_logits");
      backend.close();
    });
  }
}
