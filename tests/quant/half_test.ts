/** Half precision and bfloat16 against PyTorch's rounding, bit for bit. */

import { assert, assertEquals } from "@std/assert";
import { SafetensorsArrays } from "../../src/formats/safetensors/arrays.ts";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../../src/quant/half.ts";

const TABLES = new SafetensorsArrays(
  Deno.readFileSync(new URL("../data/numerics/rounding.safetensors", import.meta.url)),
);

const INPUTS = new Float32Array(TABLES.get("f32_bits", "I32").buffer);

/** Rounds every input and compares with the table; any NaN is right for NaN. */
function checkRounding(
  tables: { bits: string; back: string },
  convert: { round: (value: number) => number; widen: (bits: number) => number },
): void {
  const bits = TABLES.get(tables.bits, "I16");
  const back = TABLES.get(tables.back, "F32");
  let nans = 0;
  for (let i = 0; i < INPUTS.length; i++) {
    const rounded = convert.round(INPUTS[i]);
    if (Number.isNaN(INPUTS[i])) {
      assert(Number.isNaN(convert.widen(rounded)), `NaN became 0x${rounded.toString(16)}`);
      nans++;
      continue;
    }
    assertEquals(rounded, bits[i] & 0xffff, `rounding of ${INPUTS[i]}`);
    assert(Object.is(convert.widen(rounded), back[i]), `widening of 0x${rounded.toString(16)}`);
  }
  assert(nans > 0 && nans < INPUTS.length / 2);
}

Deno.test("float32 rounds to half precision as PyTorch rounds it", () => {
  checkRounding({ bits: "f16_bits", back: "f16_back" }, { round: f32ToF16, widen: f16ToF32 });
});

Deno.test("float32 rounds to bfloat16 as PyTorch rounds it", () => {
  checkRounding({ bits: "bf16_bits", back: "bf16_back" }, { round: f32ToBf16, widen: bf16ToF32 });
});

Deno.test("every half that is a number survives widening and rounding", () => {
  for (let bits = 0; bits < 65_536; bits++) {
    const value = f16ToF32(bits);
    if (!Number.isNaN(value)) assertEquals(f32ToF16(value), bits);
  }
});

Deno.test("ties between two halves go to the even one, subnormal ones too", () => {
  assertEquals(f32ToF16(2 ** -25), 0);
  assertEquals(f32ToF16(3 * 2 ** -25), 2);
  assertEquals(f32ToF16(5 * 2 ** -25), 2);
  assertEquals(f32ToF16(1 + 2 ** -11), 0x3c00);
  assertEquals(f32ToF16(1 + 3 * 2 ** -11), 0x3c02);
  assertEquals(f32ToF16(65519), 0x7bff);
  assertEquals(f32ToF16(65520), 0x7c00);
});
