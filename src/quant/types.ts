/**
 * The one table of tensor types: name, GGUF id, block geometry, and how the fast backends treat it.
 * `kernel` says which family of compute kernel reads the type directly: `integer` (quantised
 * activations), `float`, or `null` (converted to a fast type when a model is loaded).
 */

export const TENSOR_TYPES = {
  F32: { ggmlId: 0, blockValues: 1, blockBytes: 4, kernel: "float" },
  F16: { ggmlId: 1, blockValues: 1, blockBytes: 2, kernel: "float" },
  Q4_0: { ggmlId: 2, blockValues: 32, blockBytes: 18, kernel: "integer" },
  Q4_1: { ggmlId: 3, blockValues: 32, blockBytes: 20, kernel: "integer" },
  Q5_0: { ggmlId: 6, blockValues: 32, blockBytes: 22, kernel: "integer" },
  Q5_1: { ggmlId: 7, blockValues: 32, blockBytes: 24, kernel: "integer" },
  Q8_0: { ggmlId: 8, blockValues: 32, blockBytes: 34, kernel: "integer" },
  Q8_1: { ggmlId: 9, blockValues: 32, blockBytes: 36, kernel: null },
  Q2_K: { ggmlId: 10, blockValues: 256, blockBytes: 84, kernel: "integer" },
  Q3_K: { ggmlId: 11, blockValues: 256, blockBytes: 110, kernel: "integer" },
  Q4_K: { ggmlId: 12, blockValues: 256, blockBytes: 144, kernel: "integer" },
  Q5_K: { ggmlId: 13, blockValues: 256, blockBytes: 176, kernel: "integer" },
  Q6_K: { ggmlId: 14, blockValues: 256, blockBytes: 210, kernel: "integer" },
  IQ2_XXS: { ggmlId: 16, blockValues: 256, blockBytes: 66, kernel: null },
  IQ2_XS: { ggmlId: 17, blockValues: 256, blockBytes: 74, kernel: null },
  IQ3_XXS: { ggmlId: 18, blockValues: 256, blockBytes: 98, kernel: null },
  IQ1_S: { ggmlId: 19, blockValues: 256, blockBytes: 50, kernel: null },
  IQ4_NL: { ggmlId: 20, blockValues: 32, blockBytes: 18, kernel: "integer" },
  IQ3_S: { ggmlId: 21, blockValues: 256, blockBytes: 110, kernel: null },
  IQ2_S: { ggmlId: 22, blockValues: 256, blockBytes: 82, kernel: null },
  IQ4_XS: { ggmlId: 23, blockValues: 256, blockBytes: 136, kernel: "integer" },
  IQ1_M: { ggmlId: 29, blockValues: 256, blockBytes: 56, kernel: null },
  BF16: { ggmlId: 30, blockValues: 1, blockBytes: 2, kernel: "float" },
  TQ1_0: { ggmlId: 34, blockValues: 256, blockBytes: 54, kernel: null },
  TQ2_0: { ggmlId: 35, blockValues: 256, blockBytes: 66, kernel: null },
  MXFP4: { ggmlId: 39, blockValues: 32, blockBytes: 17, kernel: "integer" },
  NVFP4: { ggmlId: 40, blockValues: 64, blockBytes: 36, kernel: null },
  // Ours alone: a float32 factor and 32 e4m3 bytes, made from FP8 checkpoints; no file has it.
  F8_E4M3: { ggmlId: 1000, blockValues: 32, blockBytes: 36, kernel: "float" },
} as const satisfies Record<string, TensorTypeInfo>;

export interface TensorTypeInfo {
  /** The type's number in GGUF files and in the kernels. */
  readonly ggmlId: number;
  /** Values per quantisation block, along the row. */
  readonly blockValues: number;
  readonly blockBytes: number;
  readonly kernel: "integer" | "float" | null;
}

/** A tensor's element type, by its GGUF name where it has one. */
export type TensorType = keyof typeof TENSOR_TYPES;

const BY_GGML_ID = new Map<number, TensorType>(
  Object.entries(TENSOR_TYPES)
    .filter(([name]) => name !== "F8_E4M3")
    .map(([name, info]) => [info.ggmlId, name as TensorType]),
);

/** The type with this GGUF number, or undefined where the format has none or has retired it. */
export function tensorTypeOfGgmlId(id: number): TensorType | undefined {
  return BY_GGML_ID.get(id);
}

/** Bytes of one row of `cols` values; `cols` must be a multiple of the block. */
export function rowBytes(type: TensorType, cols: number): number {
  const { blockValues, blockBytes } = TENSOR_TYPES[type];
  return (cols / blockValues) * blockBytes;
}
