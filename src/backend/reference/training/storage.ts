/** What numbers become by being stored in two bytes. */

import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../../../quant/half.ts";
import type { Storage } from "../../training.ts";

type Round = (value: number) => number;

const ROUNDINGS: Readonly<Record<Storage, Round>> = Object.freeze({
  f32: Math.fround,
  f16: (value) => f16ToF32(f32ToF16(value)),
  bf16: (value) => bf16ToF32(f32ToBf16(value)),
});

/** Rounds to nearest even; what is too large for a half becomes infinite. */
export function roundingOf(storage: Storage): Round {
  return ROUNDINGS[storage];
}

/** The bits of values in two bytes each, and back. */
export const HALVES: Readonly<
  Record<"f16" | "bf16", { readonly bits: Round; readonly value: Round }>
> = Object.freeze({
  f16: { bits: f32ToF16, value: f16ToF32 },
  bf16: { bits: f32ToBf16, value: bf16ToF32 },
});
