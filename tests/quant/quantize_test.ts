/** Rounding to Q8_0 against ggml's reference, byte for byte. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { SafetensorsArrays } from "../../src/formats/safetensors/arrays.ts";
import { quantizeQ8_0 } from "../../src/quant/classic.ts";
import { dequantize } from "../../src/quant/dequantize.ts";

Deno.test("Q8_0 rounding makes ggml's bytes", () => {
  const arrays = new SafetensorsArrays(
    Deno.readFileSync(new URL("../data/quants/q8_0.safetensors", import.meta.url)),
  );
  const bytes = quantizeQ8_0(arrays.get("quantised.source", "F32"));
  assertEquals(bytes, arrays.get("quantised.bytes", "U8"));
});

Deno.test("Q8_0 rounding errs by at most half a step of each block", () => {
  const values = Float32Array.from({ length: 4096 }, (_, i) => Math.sin(i * 1.7) * (1 + i % 97));
  const out = new Float32Array(values.length);
  dequantize("Q8_0", quantizeQ8_0(values), out);
  for (let block = 0; block < values.length; block += 32) {
    const slice = values.subarray(block, block + 32);
    const step = Math.max(...slice.map(Math.abs)) / 127;
    // The stored scale is a half: off by 2^-11 of itself, 127 times.
    const bound = step * (0.5 + 127 * 2 ** -11 + 1e-3);
    slice.forEach((value, j) => assert(Math.abs(value - out[block + j]) <= bound));
  }
});

Deno.test("Q8_0 rounding refuses a part of a block", () => {
  assertThrows(() => quantizeQ8_0(new Float32Array(33)), RangeError, "is 33, must be a multiple");
});
