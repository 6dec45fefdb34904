/** Writing types against ggml's reference: Q8_0 byte for byte, the others by what is lost. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { SafetensorsArrays } from "../../src/formats/safetensors/arrays.ts";
import { quantizeQ8_0 } from "../../src/quant/classic.ts";
import { dequantize } from "../../src/quant/dequantize.ts";
import { quantize, type WritableType } from "../../src/quant/quantize.ts";

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

/** Root of the mean squared difference, in parts of the values' own. */
function relativeError(values: Float32Array, type: WritableType, bytes: Uint8Array): number {
  const out = new Float32Array(values.length);
  dequantize(type, bytes, out);
  const squares = (of: (i: number) => number) => values.reduce((sum, _, i) => sum + of(i) ** 2, 0);
  return Math.sqrt(squares((i) => out[i] - values[i]) / squares((i) => values[i]));
}

for (const type of ["Q5_0", "Q4_K", "Q6_K"] as const) {
  Deno.test(`${type} loses no more of ggml's recorded rows than ggml's own quantiser does`, () => {
    const path = `../data/quants/${type.toLowerCase()}.safetensors`;
    const arrays = new SafetensorsArrays(Deno.readFileSync(new URL(path, import.meta.url)));
    const values = arrays.get("quantised.source", "F32");
    const own = relativeError(values, type, quantize(type, values));
    const theirs = relativeError(values, type, arrays.get("quantised.bytes", "U8"));
    assert(own <= theirs, `${own}, ggml ${theirs}`);
  });
}

/** What is lost of values that are normally distributed, and what may be. */
const LOSSES = { Q8_0: 0.0061, Q6_K: 0.0185, Q5_0: 0.045, Q4_K: 0.075 } as const;

Deno.test("normally distributed values lose what their type's bits are worth, and zeros nothing", () => {
  const noise = normal(64 * 256);
  for (const [type, most] of Object.entries(LOSSES)) {
    const loss = relativeError(noise, type as WritableType, quantize(type as WritableType, noise));
    assert(loss > most / 2 && loss <= most, `${type}: ${loss}`);
    const zeros = new Float32Array(256);
    const out = new Float32Array(256).fill(1);
    dequantize(type as WritableType, quantize(type as WritableType, zeros), out);
    assert(out.every((value) => value === 0), type);
  }
});

Deno.test("k-quants keep constants, one-sided rows and rows of very different sizes", () => {
  for (const type of ["Q4_K", "Q6_K"] as const) {
    const rows = [
      Float32Array.from({ length: 256 }, () => -0.75),
      Float32Array.from({ length: 256 }, (_, i) => 3 + (i % 16) / 15),
      Float32Array.from({ length: 256 }, (_, i) => i < 32 ? 1000 * Math.sin(i) : 0),
      Float32Array.from({ length: 256 }, (_, i) => 1e-20 * Math.sin(i)),
    ];
    for (const [i, row] of rows.slice(0, 3).entries()) {
      assert(relativeError(row, type, quantize(type, row)) < 0.11, `${type}, row ${i}`);
    }
    const out = new Float32Array(256);
    dequantize(type, quantize(type, rows[3]), out);
    assert(out.every((value) => Math.abs(value) < 1e-7), `${type}: too small for its scales`);
  }
});

Deno.test("quantising refuses a part of a block of any type", () => {
  for (const type of ["Q5_0", "Q4_K", "Q6_K"] as const) {
    assertThrows(() => quantize(type, new Float32Array(40)), RangeError, "must be a multiple");
  }
});

/** Pairs of Box and Muller over a small generator. */
function normal(count: number): Float32Array {
  let state = 12345;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return Float32Array.from(
    { length: count },
    () => Math.sqrt(-2 * Math.log(next())) * Math.cos(2 * Math.PI * next()),
  );
}
