/** Whole gradients of mixtures and of checkpoints through the server's forward pass, on any backend. */

import { assertAlmostEquals, assertEquals } from "@std/assert";
import type { TrainingSequence } from "../../src/training/batch.ts";
import { TapeBackend } from "../../src/training/tape/mod.ts";
import { Trainer } from "../../src/training/trainer.ts";
import { checkpointNames, fixtureModel } from "./_fixture_model.ts";
import { assertGradient, fixtureCases } from "./_fixtures.ts";
import type { TrainingConformance } from "./_update_conformance.ts";

/** Against PyTorch. */
export function moeBlockTests({ name: backend, open }: TrainingConformance): void {
  for (const [name, fixture] of fixtureCases("moe_block.")) {
    Deno.test(`${backend}, ${name}: loss, balance loss and every gradient are PyTorch's`, async () => {
      const { arrays, info } = fixture;
      const { B: sequences, T: length, experts, topk } = info.shapes;
      const tokens = sequences * length;
      const inner = await open();
      const tape = new TapeBackend(inner);
      // A few rows more than there are tokens, and rows of logits without a target.
      const shape = { rows: tokens + 3, logitRows: tokens + 2, sequences: sequences + 1 };
      const model = await fixtureModel(fixture, { tape, maxRows: shape.rows });
      const isSigmoid = info.mode === "sigmoid";
      const trainer = new Trainer({ tape, model }, {
        shape,
        objective: { kind: "likelihood" },
        rule: { kind: "lars", momentum: 0, trust: 1, eps: 0 },
        parameters: { weightDecay: 0 },
        balance: isSigmoid
          ? { over: "sequence", alpha: info.aux_coef }
          // Mixtral's f sums to the number of experts chosen, DeepSeek's to 1.
          : { over: "batch", alpha: info.aux_coef * topk },
      });
      const each = (values: Int32Array) => (s: number) =>
        values.subarray(s * length, (s + 1) * length);
      const [ids, targets] = [each(arrays.get("ids", "I32")), each(arrays.get("targets", "I32"))];
      const batch = Array.from({ length: sequences }, (_, s): TrainingSequence => ({
        inputs: ids(s),
        targets: targets(s),
        weights: new Float32Array(length).fill(1 / tokens),
      }));
      trainer.begin();
      trainer.accumulate(batch);
      const totals = await trainer.totals();
      assertEquals(totals.tokens, tokens);
      assertAlmostEquals(totals.loss, info.cross_entropy, 1e-5);
      assertAlmostEquals(totals.loss + totals.balance, info.loss, 1e-5);
      for (const full of arrays.names.filter((name) => name.startsWith("grad."))) {
        const names = checkpointNames(full.slice("grad.".length), experts);
        const parameter = trainer.parameters.trained.find((p) => p.names[0] === names[0]);
        assertEquals(parameter?.names, names, `${full} is a parameter of the model`);
        const gradient = await inner.readParameter(parameter!, "gradient");
        assertGradient(gradient, arrays.get(full, "F64"), full);
      }
      if (isSigmoid) {
        const [counts] = await trainer.expertCounts();
        assertEquals(Array.from(counts), info.bias_update.counts);
        trainer.apply({ rate: 0, biasRate: info.bias_update.gamma });
        const [{ correctionBias }] = trainer.parameters.gates;
        const bias = inner.parameterOf(correctionBias!);
        const after = await inner.readParameter(bias, "value");
        arrays.get("bias_after_update", "F64").forEach((expected, e) =>
          assertAlmostEquals(after[e], expected, 1e-7)
        );
        // It has no gradient, and no room for one.
        assertEquals(trainer.parameters.trained.includes(bias), false);
      }
      inner.close();
    });
  }
}
