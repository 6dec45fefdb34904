import { assert, assertEquals } from "@std/assert";
import {
  BEST_WEIGHT,
  farthestStep,
  LARGEST,
  OCTAVE,
  settled,
  SMALLEST,
  STEPS,
  stepScale,
  WEIGHT_TABLES,
  weightOf,
} from "../../src/sampling/weights.ts";

Deno.test("weights are the integers next to powers of two, never grow, and are at least one", () => {
  let before = BEST_WEIGHT;
  for (let step = 0; step < STEPS; step++) {
    const weight = weightOf(step);
    const exact = BEST_WEIGHT * 2 ** (-step / OCTAVE);
    // Half of the last place, once in the octave and once behind its shift, and what the tables round.
    if (Math.abs(weight - exact) > 0.75 + exact * 2 ** -25) {
      throw new Error(`step ${step}: ${weight}`);
    }
    if (weight > before || weight < 1) throw new Error(`step ${step}: ${weight} after ${before}`);
    before = weight;
  }
  assertEquals([weightOf(0), weightOf(OCTAVE), weightOf(STEPS - 1)], [BEST_WEIGHT, 2 ** 30, 1]);
});

Deno.test("a weight is what 32-bit words give that multiply and shift the tables' entries", () => {
  for (let step = 0; step < STEPS; step += 4093) {
    const product = BigInt(WEIGHT_TABLES[(step >> 8) & 255]) *
      BigInt(WEIGHT_TABLES[256 + (step & 255)]);
    const inOctave = (product + (1n << 20n)) >> 21n;
    const octaves = BigInt(step >> 16);
    const weight = (inOctave + ((1n << octaves) >> 1n)) >> octaves;
    assertEquals(BigInt(weightOf(step)), weight);
  }
});

Deno.test("settled numbers are zero or well within float32's range", () => {
  assertEquals([0, -0, 1e-45, -1e-30, SMALLEST / 2].map(settled), [0, 0, 0, 0, 0]);
  assertEquals([SMALLEST, 0.5, -3, LARGEST].map(settled), [SMALLEST, 0.5, -3, LARGEST]);
  assertEquals([1e30, -3e38].map(settled), [LARGEST, -LARGEST]);
  assertEquals([Infinity, -Infinity, NaN].map(settled), [Infinity, -Infinity, NaN]);
  assertEquals(settled(0.1), Math.fround(0.1));
  // Rounding comes first: this one rounds up to the smallest.
  assertEquals(settled(SMALLEST * (1 - 2 ** -30)), SMALLEST);
});

Deno.test("min_p's last step is the last one that is likely enough", () => {
  assertEquals([0, 0.5, 1].map(farthestStep), [STEPS - 1, OCTAVE, 0]);
  for (const share of [1e-12, 1e-5, 0.02, 0.1, 0.7, 0.99999]) {
    const step = farthestStep(share);
    assert(step === STEPS - 1 || weightOf(step + 1) < share * BEST_WEIGHT);
    assert(step === STEPS - 1 || weightOf(step) >= share * BEST_WEIGHT);
  }
});

Deno.test("steps per logit follow the temperature, and no temperature makes them infinite", () => {
  assertEquals(stepScale(1), Math.fround(65536 / Math.LN2));
  assertEquals(stepScale(2), Math.fround(32768 / Math.LN2));
  assertEquals(stepScale(5e-324), LARGEST);
});
