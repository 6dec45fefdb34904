/** What backends do that store weights and activations in two bytes, over float32 masters, with a factor on the loss. */

import { assert, assertEquals } from "@std/assert";
import type { Storage, TrainingBackend } from "../../src/backend/training.ts";
import { f16ToF32, f32ToF16 } from "../../src/quant/half.ts";
import { TapeBackend } from "../../src/training/tape/mod.ts";
import { Trainer, type TrainerOptions } from "../../src/training/trainer.ts";
import { moeBlockTests } from "./_moe_block_conformance.ts";
import { MIXTURE, randomSequences, tinyModel } from "./_tiny.ts";

export interface PrecisionConformance {
  /** For the tests' names. */
  readonly name: string;
  open(storage: Storage): Promise<TrainingBackend>;
  /** Those of two bytes that it has; f16 among them. */
  readonly storages: readonly Exclude<Storage, "f32">[];
}

async function trainerOf(inner: TrainingBackend, options: Partial<TrainerOptions> = {}) {
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

export function precisionTests({ name, open, storages }: PrecisionConformance): void {
  moeBlockTests({
    name: `${name} in halves`,
    open: () => open("f16"),
    lossScale: 1024,
    // Some roundings of 2^-11 one upon the other; bf16's, eight times as large, would be too much.
    tolerances: { loss: 1e-3, gradient: 5e-3 },
  });

  Deno.test(`${name}: ${storages.join(" and ")} with float32 masters learn as float32 does, within a hundredth`, async () => {
    const inner = await open("f32");
    const full = await lossAfter(25, await trainerOf(inner));
    inner.close();
    for (const storage of storages) {
      const options = storage === "f16" ? { lossScale: 1024, scaling: SCALING } : {};
      const inner = await open(storage);
      const trained = await trainerOf(inner, options);
      const loss = await lossAfter(25, trained);
      assert(Math.abs(loss - full) <= 0.01 * full, `${storage}: ${loss}, must be about ${full}`);
      assert(loss !== full, `${storage} rounds nothing`);
      assertEquals((await trained.trainer.totals()).skipped, 0);
      inner.close();
    }
  });

  Deno.test(`${name}: what is kept in halves takes half the bytes, and stored weights are halves of the masters`, async () => {
    const inner = await open("f16");
    const { trainer } = await trainerOf(inner);
    const plain = await open("f32");
    const { trainer: full } = await trainerOf(plain);
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
    for (const backend of [inner, plain]) backend.close();
  });

  Deno.test(`${name}: weights that are read and written again compute as those that were learnt`, async () => {
    const losses: number[] = [];
    const inner = await open("f16");
    const { trainer } = await trainerOf(inner);
    const loss = async () => {
      trainer.begin();
      trainer.accumulate(BATCH);
      losses.push((await trainer.totals()).loss);
    };
    trainer.step([BATCH], { rate: 1e-2 });
    const { trained } = trainer.parameters;
    const values = [];
    for (const parameter of trained) values.push(await inner.readParameter(parameter, "value"));
    await loss();
    trainer.step([BATCH], { rate: 1e-2 });
    await loss();
    for (const [i, parameter] of trained.entries()) {
      inner.writeParameter(parameter, "value", values[i]);
    }
    await loss();
    assertEquals(losses[2], losses[0]);
    assert(losses[1] !== losses[0]);
    inner.close();
  });

  Deno.test(`${name}: a factor that is too large for halves costs skipped updates until it fits`, async () => {
    const inner = await open("f16");
    const { trainer } = await trainerOf(inner, { lossScale: 2 ** 26, scaling: SCALING });
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
    inner.close();
  });
}
