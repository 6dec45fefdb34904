/** Storage of weights and activations in two bytes, over float32 masters, with a factor on the loss. */

import { assert, assertEquals } from "@std/assert";
import { createReferenceTrainingBackend } from "../../src/backend/reference/training/mod.ts";
import type { Storage } from "../../src/backend/training.ts";
import { f16ToF32, f32ToF16 } from "../../src/quant/half.ts";
import { TapeBackend } from "../../src/training/tape/mod.ts";
import { Trainer, type TrainerOptions } from "../../src/training/trainer.ts";
import { MIXTURE, randomSequences, tinyModel } from "./_tiny.ts";

async function trainerOf(storage: Storage, options: Partial<TrainerOptions> = {}) {
  const inner = createReferenceTrainingBackend({ storage });
  const tape = new TapeBackend(inner);
  const shape = { rows: 24, logitRows: 24, sequences: 3 };
  const model = await tinyModel(MIXTURE, { tape, maxRows: shape.rows, deviation: 0.1 });
  const trainer = new Trainer({ tape, model }, {
    ...{ shape, objective: { kind: "likelihood" }, maxNorm: 1 },
    rule: { kind: "adamw", beta1: 0.9, beta2: 0.95, eps: 1e-8 },
    parameters: { weightDecay: 0.01 },
    ...options,
  });
  return { inner, trainer };
}

const BATCH = randomSequences([9, 8, 7], { seed: 11 });
const SCALING = { growth: 2, backoff: 0.5, interval: 20 };

async function lossAfter(steps: number, { trainer }: { trainer: Trainer }): Promise<number> {
  for (let step = 0; step < steps; step++) trainer.step([BATCH], { rate: 2e-3 });
  trainer.begin();
  trainer.accumulate(BATCH);
  return (await trainer.totals()).loss;
}

Deno.test("halves with float32 masters learn as float32 does, within a hundredth", async () => {
  const full = await lossAfter(25, await trainerOf("f32"));
  for (const storage of ["f16", "bf16"] as const) {
    const options = storage === "f16" ? { lossScale: 1024, scaling: SCALING } : {};
    const trained = await trainerOf(storage, options);
    const loss = await lossAfter(25, trained);
    assert(Math.abs(loss - full) <= 0.01 * full, `${storage}: ${loss}, must be about ${full}`);
    assert(loss !== full, `${storage} rounds nothing`);
    assertEquals((await trained.trainer.totals()).skipped, 0);
  }
});

Deno.test("what is kept in halves takes half the bytes, and stored weights are halves of the masters", async () => {
  const { inner, trainer } = await trainerOf("f16");
  const { trainer: full } = await trainerOf("f32");
  // Integers stay as they are.
  const share = trainer.activations.keptBytes / full.activations.keptBytes;
  assert(share > 0.49 && share < 0.53, `the share is ${share}`);
  trainer.step([BATCH], { rate: 1e-4 });
  const matrices = trainer.parameters.trained.filter(({ rows }) => rows > 1);
  let moved = 0;
  for (const parameter of matrices) {
    const masters = await inner.readParameter(parameter, "value");
    moved += masters.filter((value) => f16ToF32(f32ToF16(value)) !== value).length;
  }
  // A step this small is lost on most halves; the masters have it.
  assert(moved > 1000, `${moved} masters lie between halves`);
});

Deno.test("a factor that is too large for halves costs skipped updates until it fits", async () => {
  const { inner, trainer } = await trainerOf("f16", { lossScale: 2 ** 26, scaling: SCALING });
  const [parameter] = trainer.parameters.trained;
  const before = await inner.readParameter(parameter, "value");
  trainer.step([BATCH], { rate: 1e-3 });
  assertEquals((await trainer.totals()).skipped, 1);
  assertEquals(await inner.readParameter(parameter, "value"), before);
  for (let step = 0; step < 14; step++) trainer.step([BATCH], { rate: 1e-3 });
  const { skipped, updates, lossScale } = await trainer.totals();
  assertEquals(skipped + updates, 15);
  assertEquals(lossScale, 2 ** (26 - skipped));
  assert(skipped > 1 && updates > 1, `${skipped} of 15 were skipped`);
  const after = await inner.readParameter(parameter, "value");
  assert(after.every(Number.isFinite) && after.some((value, i) => value !== before[i]));
});
