/** Every quantisation against ggml's own results, bit for bit. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { FormatError } from "../../src/errors.ts";
import { SafetensorsArrays } from "../../src/formats/safetensors/arrays.ts";
import { dequantize } from "../../src/quant/dequantize.ts";
import { TENSOR_TYPES, type TensorType, tensorTypeOfGgmlId } from "../../src/quant/types.ts";

const FOLDER = new URL("../data/quants/", import.meta.url);

interface FixtureType {
  readonly ggml_type: number;
  readonly block_values: number;
  readonly block_bytes: number;
  readonly file: string;
}

const INDEX = JSON.parse(Deno.readTextFileSync(new URL("index.json", FOLDER))) as {
  types: Record<string, FixtureType>;
};

function bitsOf(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

/** Index of the first value that differs in its bits (NaN equals NaN), or -1. */
function firstDifference(actual: Float32Array, expected: Float32Array): number {
  const a = bitsOf(actual);
  const b = bitsOf(expected);
  return a.findIndex((bits, i) =>
    bits !== b[i] && !(Number.isNaN(actual[i]) && Number.isNaN(expected[i]))
  );
}

Deno.test("the table of types agrees with ggml on numbers and block sizes", () => {
  assertEquals(Object.keys(INDEX.types).length, 26);
  for (const [name, fixture] of Object.entries(INDEX.types)) {
    const info = TENSOR_TYPES[name as TensorType];
    assertEquals(
      [info.ggmlId, info.blockValues, info.blockBytes],
      [fixture.ggml_type, fixture.block_values, fixture.block_bytes],
      name,
    );
    assertEquals(tensorTypeOfGgmlId(fixture.ggml_type), name as TensorType);
  }
});

for (const [name, fixture] of Object.entries(INDEX.types)) {
  Deno.test(`${name} dequantises to ggml's values bit for bit`, () => {
    const arrays = new SafetensorsArrays(Deno.readFileSync(new URL(fixture.file, FOLDER)));
    let sets = 0;
    for (const set of ["quantised", "raw"]) {
      if (!arrays.has(`${set}.values`)) continue;
      const expected = arrays.get(`${set}.values`, "F32");
      const out = new Float32Array(expected.length);
      dequantize(name as TensorType, arrays.get(`${set}.bytes`, "U8"), out);
      const at = firstDifference(out, expected);
      assert(at < 0, `${set} value ${at} is ${out[at]}, must be ${expected[at]}`);
      sets++;
    }
    assert(sets > 0);
  });
}

Deno.test("F32 bytes are taken as they are, also from an odd address", () => {
  const values = new Float32Array([1.5, -0, NaN, Infinity]);
  const odd = new Uint8Array(17);
  odd.set(new Uint8Array(values.buffer), 1);
  const out = new Float32Array(4);
  dequantize("F32", odd.subarray(1), out);
  assertEquals(bitsOf(out), bitsOf(values));
});

Deno.test("dequantising refuses parts of a block and bytes that are not the blocks'", () => {
  assertThrows(
    () => dequantize("Q4_0", new Uint8Array(18), new Float32Array(31)),
    FormatError,
    "cannot dequantise Q4_0: the number of values is 31, must be a multiple of 32",
  );
  assertThrows(
    () => dequantize("Q6_K", new Uint8Array(209), new Float32Array(256)),
    FormatError,
    "the number of bytes is 209, must be 210",
  );
});
