import { assertEquals } from "@std/assert";
import type { PackedSequence } from "../../../src/training/data/packing/packer.ts";
import { PackedStream } from "../../../src/training/phases/packed_stream.ts";
import { SupervisedWork } from "../../../src/training/phases/supervised.ts";
import type { SupervisedPhase } from "../../../src/training/run/phase_recipe.ts";
import type { StepTrainer } from "../../../src/training/step_trainer.ts";
import { readRecipe, shortRecipe } from "./_run.ts";

Deno.test("a pass over packed files reads each of them once", async () => {
  let reads = 0;
  const sequence: PackedSequence = {
    ids: Int32Array.of(1, 2, 3, 4),
    targets: Uint8Array.of(0, 1, 1, 1),
    samples: Int32Array.of(0, 0, 0, 0),
  };
  const files = ["a", "b", "c"].map((name) => ({
    ...{ name, count: 4 },
    read() {
      reads++;
      return Promise.resolve(new Array<PackedSequence>(4).fill(sequence));
    },
  }));
  const shape = { rows: 8, logitRows: 8, sequences: 2 };
  const trainer = { shape, step() {} } as unknown as StepTrainer;
  const work = new SupervisedWork({
    ...(readRecipe(shortRecipe()).phases[0] as SupervisedPhase),
    ...{ trainer, stream: new PackedStream(files, { seed: "s" }), tokens: 8, metricsEvery: 100 },
  });
  for (let step = 0; step < 6; step++) assertEquals((await work.step(step)).trainedTokens, 6);
  assertEquals(reads, 3);
});
