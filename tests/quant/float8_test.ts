import { assert, assertEquals } from "@std/assert";
import { dequantize } from "../../src/quant/dequantize.ts";
import { e4m3ToF32 } from "../../src/quant/float8.ts";
import { tensorTypeOfGgmlId } from "../../src/quant/types.ts";

/** From the format's definition (Micikevicius et al. 2022, table 1) and its neighbours. */
const KNOWN: readonly [byte: number, value: number][] = [
  [0x00, 0],
  [0x01, 2 ** -9],
  [0x07, 7 * 2 ** -9],
  [0x08, 2 ** -6],
  [0x38, 1],
  [0x39, 1.125],
  [0x40, 2],
  [0x78, 256],
  [0x7e, 448],
  [0x80, -0],
  [0x81, -(2 ** -9)],
  [0xb8, -1],
  [0xfe, -448],
];

Deno.test("e4m3 bytes have the values of the format's table", () => {
  for (const [byte, value] of KNOWN) assertEquals(e4m3ToF32(byte), value);
  assert(Number.isNaN(e4m3ToF32(0x7f)));
  assert(Number.isNaN(e4m3ToF32(0xff)));
});

Deno.test("e4m3 grows with its bytes and is the same below zero", () => {
  for (let byte = 1; byte < 0x7f; byte++) {
    assert(e4m3ToF32(byte) > e4m3ToF32(byte - 1), `byte ${byte}`);
    assertEquals(e4m3ToF32(byte | 0x80), -e4m3ToF32(byte));
  }
});

Deno.test("a block of e4m3 is its bytes times its factor", () => {
  const block = new Uint8Array(36);
  new DataView(block.buffer).setFloat32(0, 0.5, true);
  block.fill(0x38, 4);
  block[4] = 0x7e;
  block[35] = 0x81;
  const out = new Float32Array(32);
  dequantize("F8_E4M3", block, out);
  assertEquals([out[0], out[1], out[31]], [224, 0.5, -(2 ** -10)]);
});

Deno.test("no GGUF file can claim the type, whose number is ours alone", () => {
  assertEquals(tensorTypeOfGgmlId(1000), undefined);
});
