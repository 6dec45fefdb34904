/** Whole gradients of mixtures and of checkpoints through the server's forward pass, on any backend. */

import { assertAlmostEquals, assertEquals } from "@std/assert";
import type { TrainingSequence } from "../../src/training/batch.ts";
import type { TrainingBackend } from "../../src/backend/training.ts";
import { TapeBackend } from "../../src/training/tape/mod.ts";
import { Trainer } from "../../src/training/trainer.ts";
import { checkpointNames, fixtureModel } from "./_fixture_model.ts";
import { assertGradient, type FixtureCase, fixtureCases } from "./_fixtures.ts";
import type { TrainingConformance } from "./_update_conformance.ts";

/** The gradients of a fixture's batch, times the factor on its loss. */
async function accumulated(
  inner: TrainingBackend,
  { fixture, lossScale }: { fixture: FixtureCase; lossScale: number },
): Promise<Trainer> {
  const { arrays, info } = fixture;
  const { B: sequences, T: length, topk } = info.shapes;
  const tokens = sequences * length;
  const tape = new TapeBackend(inner);
  // A few rows more than there are tokens, and rows of logits without a target.
  const shape = { rows: tokens + 3, logitRows: tokens + 2, sequences: sequences + 1 };
  const model = await fixtureModel(fixture, { tape, maxRows: shape.rows });
  const trainer = new Trainer({ tape, model }, {
    ...{ shape, lossScale },
    objective: { kind: "likelihood" },
    rule: { kind: "lars", momentum: 0, trust: 1, eps: 0 },
    parameters: { weightDecay: 0 },
    balance: info.mode === "sigmoid"
      ? { over: "sequence", alpha: info.aux_coef }
      // Mixtral's f sums to the number of experts chosen, DeepSeek's to 1.
      : { over: "batch", alpha: info.aux_coef * topk },
  });
  const each = (values: Int32Array) => (s: number) => values.subarray(s * length, (s + 1) * length);
  const [ids, targets] = [each(arrays.get("ids", "I32")), each(arrays.get("targets", "I32"))];
  const batch = Array.from({ length: sequences }, (_, s): TrainingSequence => ({
    inputs: ids(s),
    targets: targets(s),
    weights: new Float32Array(length).fill(1 / tokens),
  }));
  trainer.begin();
  trainer.accumulate(batch);
  return trainer;
}

export interface MoeBlockOptions extends TrainingConformance {
  readonly lossScale?: number;
  /** What the loss may be off, and a gradient as a part of its largest number; float32's by default. */
  readonly tolerances?: { readonly loss: number; readonly gradient: number };
}

/** Against PyTorch. */
export function moeBlockTests(options: MoeBlockOptions): void {
  const { name: backend, open, lossScale = 1, tolerances } = options;
  const lossTolerance = tolerances?.loss ?? 1e-5;
  for (const [name, fixture] of fixtureCases("moe_block.")) {
    Deno.test(`${backend}, ${name}: loss, balance loss and every gradient are PyTorch's`, async () => {
      const { arrays, info } = fixture;
      const { B: sequences, T: length, experts } = info.shapes;
      const inner = await open();
      const trainer = await accumulated(inner, { fixture, lossScale });
      const totals = await trainer.totals();
      assertEquals(totals.tokens, sequences * length);
      assertAlmostEquals(totals.loss, info.cross_entropy, lossTolerance);
      assertAlmostEquals(totals.loss + totals.balance, info.loss, lossTolerance);
      for (const full of arrays.names.filter((name) => name.startsWith("grad."))) {
        const names = checkpointNames(full.slice("grad.".length), experts);
        const parameter = trainer.parameters.trained.find((p) => p.names[0] === names[0]);
        assertEquals(parameter?.names, names, `${full} is a parameter of the model`);
        const scaled = await inner.readParameter(parameter!, "gradient");
        const gradient = scaled.map((value) => value / lossScale);
        assertGradient(gradient, arrays.get(full, "F64"), full, tolerances?.gradient);
      }
      if (info.mode === "sigmoid") {
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
