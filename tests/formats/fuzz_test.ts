/** A million mutated headers per format: nothing but FormatError, no hang, no runaway memory. */

import { assert, assertEquals, assertGreater, assertLess, assertThrows } from "@std/assert";
import { fuzz, type FuzzFormat, main } from "../../src/cli/fuzz.ts";
import { OptionError } from "../../src/errors.ts";

const COUNT = 1_000_000;
const MAX_MS = 2000;
const MAX_GROWTH_BYTES = 256 * 1024 * 1024;

for (const format of ["gguf", "safetensors"] as const satisfies readonly FuzzFormat[]) {
  Deno.test(`a million mutated ${format} headers end in FormatError or are read`, () => {
    const before = Deno.memoryUsage().rss;
    let most = before;
    const result = fuzz({
      format,
      count: COUNT,
      seed: 20_261_123,
      onProgress: () => most = Math.max(most, Deno.memoryUsage().rss),
    });
    assertEquals(result.failures, []);
    assertEquals(result.accepted + result.refused, COUNT);
    // The mutations must reach deep: some files stay good, many different checks complain.
    assertGreater(result.accepted, COUNT / 100);
    assertGreater(result.complaints, 30);
    assertLess(result.slowestMs, MAX_MS);
    assertLess(most - before, MAX_GROWTH_BYTES);
  });
}

Deno.test("the same seed gives the same run and another seed another one", () => {
  const run = (seed: number) => {
    const { accepted, refused } = fuzz({ format: "gguf", count: 5000, seed });
    return [accepted, refused];
  };
  assertEquals(run(1), run(1));
  assert(run(1)[0] !== run(2)[0]);
});

Deno.test("fuzz refuses arguments it does not know", () => {
  for (const args of [["--format", "onnx"], ["--count", "-1"], ["--seed"], ["x", "1"]]) {
    assertThrows(() => main(args), OptionError, "cannot fuzz");
  }
});
