import { assertThrows } from "@std/assert";
import { product, rowOf } from "./_expected.ts";
import { generator, normals, randomWeight } from "./_random.ts";
import { dotTolerance, ErrorTally } from "./_tolerance.ts";

/** Errors of a product whose inputs are rounded to `steps` steps a block of 32. */
function tallyRounded(steps: number): ErrorTally {
  const random = generator(1);
  const cols = 256;
  const weight = randomWeight(random, { name: "w", type: "Q4_0", rows: 100, cols });
  const tally = new ErrorTally("a product");
  for (let row = 0; row < 10; row++) {
    const x = Float64Array.from(normals(random, { length: cols }));
    const rounded = x.slice();
    for (let start = 0; start < cols; start += 32) {
      const block = rounded.subarray(start, start + 32);
      const step = block.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / steps;
      block.forEach((value, i) => block[i] = Math.round(value / step) * step);
    }
    for (let r = 0; r < 100; r++) {
      const w = rowOf(weight.values, r, cols);
      tally.add(product(w, rounded), {
        expected: product(w, x),
        tolerance: dotTolerance({ type: "Q4_0", precision: "q8", weight: w, x, added: 0 }),
        at: `${row}, ${r}`,
      });
    }
  }
  return tally;
}

Deno.test("the tolerance of 8-bit activations lets 8 bits pass and notices a lost one", () => {
  tallyRounded(127).finish();
  assertThrows(() => tallyRounded(63).finish(), Error, "the rms error is");
});

/** A number rounded to so many bits, to even ones where two are as near: sums often lie between two. */
function roundBits(value: number, bits: number): number {
  if (value === 0) return 0;
  const step = 2 ** (Math.floor(Math.log2(Math.abs(value))) - bits + 1);
  const below = Math.floor(value / step);
  const behind = value / step - below;
  return step * (behind > 0.5 || behind === 0.5 && below % 2 !== 0 ? below + 1 : below);
}

/** Errors of products of which everything but sums of eight columns has so many bits. */
function tallyHalves(bits: number, { fused }: { fused: boolean }): ErrorTally {
  const random = generator(2);
  const cols = 256;
  const weight = randomWeight(random, { name: "w", type: "F16", rows: 100, cols });
  const round = (value: number) => roundBits(value, bits);
  const tally = new ErrorTally("a product");
  for (let row = 0; row < 10; row++) {
    const x = Float64Array.from(normals(random, { length: cols }));
    for (let r = 0; r < 100; r++) {
      const w = rowOf(weight.values, r, cols);
      let total = 0;
      for (let start = 0; start < cols; start += 8) {
        let sum = 0;
        for (let i = start; i < start + 8; i++) {
          const term = w[i] * round(x[i]);
          sum = round(sum + (fused ? term : round(term)));
        }
        total += sum;
      }
      tally.add(total, {
        expected: product(w, x),
        tolerance: dotTolerance({ type: "F16", precision: "halves", weight: w, x, added: 0 }),
        at: `${row}, ${r}`,
      });
    }
  }
  return tally;
}

Deno.test("the tolerance of halves lets eleven bits pass, fused or not, and notices a lost one", () => {
  for (const fused of [true, false]) {
    tallyHalves(11, { fused }).finish();
    assertThrows(() => tallyHalves(10, { fused }).finish(), Error, "a product: ");
  }
});

Deno.test("a result that is not a number is never within tolerance", () => {
  const tally = new ErrorTally("nothing");
  tally.add(NaN, { expected: 0, tolerance: { rounding: 1, deviation: 1 }, at: "here" });
  assertThrows(() => tally.finish(), Error, "here is NaN");
});
