/** Gradient checkpointing: what it saves, and that it changes nothing. */

import { assert, assertEquals } from "@std/assert";
import type { TrainingBackend } from "../../src/backend/training.ts";
import { TapeBackend } from "../../src/training/tape/mod.ts";
import { Trainer } from "../../src/training/trainer.ts";
import { assertSameBits } from "../backend/_harness.ts";
import { DENSE, MIXTURE, randomSequences, tinyModel } from "./_tiny.ts";
import type { TrainingConformance } from "./_update_conformance.ts";

async function trainerOf(
  inner: TrainingBackend,
  config: Readonly<Record<string, unknown>>,
  checkpoint: boolean,
) {
  const tape = new TapeBackend(inner);
  const shape = { rows: 30, logitRows: 8, sequences: 4 };
  const model = await tinyModel(config, { tape, maxRows: shape.rows });
  const trainer = new Trainer({ tape, model }, {
    ...{ shape, checkpoint, objective: { kind: "likelihood" } },
    rule: { kind: "adamw", beta1: 0.9, beta2: 0.95, eps: 1e-8 },
    parameters: { weightDecay: 0.1 },
    balance: { over: "sequence", alpha: 0.01 },
  });
  return { inner, trainer };
}

export function checkpointingTests({ name: backend, open }: TrainingConformance): void {
  for (const [name, config] of [["dense", DENSE], ["mixture", MIXTURE]] as const) {
    Deno.test(`${backend}, ${name}: gradients have the same bits with layers run again`, async () => {
      // Eight tokens have a part in the loss; the other sequences are there to be kept apart.
      const sequences = randomSequences([11, 7, 9], { seed: 3 }).map((sequence, s) => ({
        ...sequence,
        weights: Array.from(sequence.weights, (weight, i) => s === 0 && i < 8 ? weight : 0),
      }));
      const plain = await trainerOf(await open(), config, false);
      const again = await trainerOf(await open(), config, true);
      for (const { trainer } of [plain, again]) {
        trainer.begin();
        trainer.accumulate(sequences);
      }
      assertEquals(await again.trainer.totals(), await plain.trainer.totals());
      for (const [i, parameter] of plain.trainer.parameters.trained.entries()) {
        const other = again.trainer.parameters.trained[i];
        assertEquals(other.names, parameter.names);
        assertSameBits(
          await again.inner.readParameter(other, "gradient"),
          await plain.inner.readParameter(parameter, "gradient"),
          parameter.names[0],
        );
      }
      plain.inner.close();
      again.inner.close();
      const { activations: less } = again.trainer;
      const { activations: more } = plain.trainer;
      assert(
        less.peakBytes < more.peakBytes,
        `${less.peakBytes} bytes, must be below ${more.peakBytes}`,
      );
    });

    Deno.test(`${backend}, ${name}: twelve layers take a third of the activations or less`, async (t) => {
      const config12 = { ...config, num_hidden_layers: 12 };
      const use = async (checkpoint: boolean) => {
        const inner = await open();
        const { trainer } = await trainerOf(inner, config12, checkpoint);
        inner.close();
        return trainer.activations;
      };
      const [plain, again] = [await use(false), await use(true)];
      const kib = (bytes: number) => `${Math.round(bytes / 1024)} KiB`;
      await t.step(
        `peak ${kib(plain.peakBytes)} without, ${kib(again.peakBytes)} with; ` +
          `kept for the backward pass ${kib(plain.keptBytes)} and ${kib(again.keptBytes)}`,
        () => assert(3 * again.peakBytes <= plain.peakBytes),
      );
    });
  }
}
