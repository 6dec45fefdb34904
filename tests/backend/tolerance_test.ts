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

Deno.test("a result that is not a number is never within tolerance", () => {
  const tally = new ErrorTally("nothing");
  tally.add(NaN, { expected: 0, tolerance: { rounding: 1, deviation: 1 }, at: "here" });
  assertThrows(() => tally.finish(), Error, "here is NaN");
});
