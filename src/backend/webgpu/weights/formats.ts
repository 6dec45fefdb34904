/** Which format a tensor takes in GPU memory. */

import type { TensorType } from "../../../quant/types.ts";
import { Q8_0 } from "./classic.ts";
import { F32 } from "./floats.ts";
import type { WeightFormat } from "./format.ts";

const FORMATS: Partial<Record<TensorType, WeightFormat>> = { F32, Q8_0 };

/** The type's own format; float32, to which every type can be converted, where it has none. */
export function formatOf(type: TensorType, { exact }: { exact: boolean }): WeightFormat {
  if (exact) return F32;
  return FORMATS[type] ?? F32;
}
