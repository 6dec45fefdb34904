/** What a trainer plans and packs, whatever backend runs it. */

import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { CapacityError } from "../../src/errors.ts";
import { packRows } from "../../src/training/batch.ts";
import { rateAt } from "../../src/training/schedule.ts";
import { initialWeights } from "../../src/training/initial_weights.ts";
import { DENSE } from "./_tiny.ts";

Deno.test("a rate rises in the warm-up, falls as asked and stays at its floor", () => {
  const schedule = { peak: 2, warmup: 4, steps: 12, decay: "cosine", floor: 0.1 } as const;
  assertEquals([0, 1, 2, 3].map((step) => rateAt(schedule, step)), [0.5, 1, 1.5, 2]);
  assertEquals(rateAt(schedule, 4), 2);
  assertAlmostEquals(rateAt(schedule, 8), 2 * (0.1 + 0.9 * 0.5));
  assertAlmostEquals(rateAt(schedule, 12), 0.2);
  assertAlmostEquals(rateAt(schedule, 100), 0.2);
  assertEquals(rateAt({ ...schedule, decay: "linear", floor: 0 }, 10), 0.5);
  assertEquals(rateAt({ ...schedule, decay: "constant" }, 11), 2);
});

Deno.test("packed sequences have pages of their own, and what fills up has no weight", () => {
  const sequence = (length: number) => ({
    inputs: Array.from({ length }, (_, i) => i),
    targets: Array.from({ length }, (_, i) => i + 1),
    weights: Array.from({ length }, (_, i) => i === 1 ? 0 : 1),
  });
  const shape = { rows: 80, logitRows: 70, sequences: 2 };
  const packed = packRows([sequence(66), sequence(3)], shape);
  assertEquals(packed.counted.reduce((sum, is) => sum + is, 0), 69);
  const pages = Array.from(
    { length: 80 },
    (_, row) =>
      packed.pageTables[packed.sequences[row] * 2 + Math.floor(packed.positions[row] / 64)],
  );
  assertEquals([pages[0], pages[63], pages[65], pages[66], pages[69]], [0, 0, 1, 2, 3]);
  assertEquals(new Set(packed.logitRows).size, 70);
  assertEquals(packed.tokenWeights.filter((weight) => weight !== 0).length, 67);
  assertEquals([packed.origins.sequences[66], packed.origins.tokens[66]], [1, 2]);
  assertEquals([packed.positions[68], packed.positions[69], packed.positions[79]], [2, 0, 0]);
  assertThrows(
    () => packRows([sequence(81)], shape),
    CapacityError,
    "cannot pack sequences: the rows are 81, must be at most 80",
  );
});

Deno.test("initial weights are those of the seed and the tensor's name alone", async () => {
  const read = async (seed: number, name: string) => {
    // deno-lint-ignore no-explicit-any -- a JSON document
    const source = initialWeights(DENSE as any, { seed });
    const tensor = source.tensors.get(name)!;
    const bytes = new Uint8Array(tensor.byteLength);
    await source.read(tensor, 0, bytes);
    return new Float32Array(bytes.buffer);
  };
  const name = "model.layers.1.mlp.gate_proj.weight";
  const values = await read(1, name);
  assertEquals(await read(1, name), values);
  assert((await read(2, name)).some((value, i) => value !== values[i]));
  const deviation = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
  assertAlmostEquals(deviation, 0.02, 0.002);
  assertEquals(new Set(await read(1, "model.norm.weight")), new Set([1]));
});
