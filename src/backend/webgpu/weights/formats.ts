/** Which format a tensor takes in GPU memory. */

import type { TensorType } from "../../../quant/types.ts";
import { Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 } from "./classic.ts";
import { IQ4_NL, IQ4_XS, MXFP4 } from "./codebook.ts";
import { BF16, F16, F32, F8_E4M3 } from "./floats.ts";
import { BLOCK, type WeightFormat } from "./format.ts";
import { Q2_K, Q3_K, Q4_K, Q5_K, Q6_K } from "./k_quants.ts";

const FORMATS: Partial<Record<TensorType, WeightFormat>> = {
  F32,
  F16,
  BF16,
  F8_E4M3,
  Q4_0,
  Q4_1,
  Q5_0,
  Q5_1,
  Q8_0,
  Q2_K,
  Q3_K,
  Q4_K,
  Q5_K,
  Q6_K,
  IQ4_NL,
  IQ4_XS,
  MXFP4,
};

/** The type's own format, or one that it is converted to: eight bits where rows are whole blocks of it. */
export function formatOf(
  type: TensorType,
  { exact, cols }: { exact: boolean; cols: number },
): WeightFormat {
  if (exact) return F32;
  return FORMATS[type] ?? (cols % BLOCK === 0 ? Q8_0 : F32);
}
