/** Element types of safetensors files. */

import type { TensorType } from "../../quant/types.ts";

export interface DtypeInfo {
  /** Bits per element; some types pack several elements into a byte. */
  readonly bits: number;
  /** The weight type it is, where it is one. */
  readonly weight?: TensorType;
}

/** By the name in the file. */
export const DTYPES: ReadonlyMap<string, DtypeInfo> = new Map<string, DtypeInfo>([
  ["F32", { bits: 32, weight: "F32" }],
  ["F16", { bits: 16, weight: "F16" }],
  ["BF16", { bits: 16, weight: "BF16" }],
  ["F64", { bits: 64 }],
  ["I64", { bits: 64 }],
  ["U64", { bits: 64 }],
  ["C64", { bits: 64 }],
  ["I32", { bits: 32 }],
  ["U32", { bits: 32 }],
  ["I16", { bits: 16 }],
  ["U16", { bits: 16 }],
  ["I8", { bits: 8 }],
  ["U8", { bits: 8 }],
  ["BOOL", { bits: 8 }],
  ["F8_E4M3", { bits: 8 }],
  ["F8_E5M2", { bits: 8 }],
  ["F8_E8M0", { bits: 8 }],
  ["F6_E2M3", { bits: 6 }],
  ["F6_E3M2", { bits: 6 }],
  ["F4", { bits: 4 }],
]);
