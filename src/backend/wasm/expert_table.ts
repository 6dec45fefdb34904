/** The kernels' table of a layer's experts, `Expert` of `kernels/src/experts.rs`. */

import type { TensorData } from "../backend.ts";
import type { ExpertTable } from "./memory.ts";
import type { PackedShape } from "./upload.ts";

/** Bytes of an entry: three descriptions of matrices, three addresses of biases. */
export const EXPERT_BYTES = 64;

const MATRIX_WORDS = 4;
const BIAS_WORD = 3 * MATRIX_WORDS;
const DATA_WORD = 3;

/** Describes an expert that is in memory: gate, up and down, and as many biases or none. */
export function writeExpert(
  { bank, address }: ExpertTable,
  expert: {
    index: number;
    matrices: readonly { tensor: TensorData; shape: PackedShape; address: number }[];
    biases: readonly number[];
  },
): void {
  const words = new Uint32Array(bank.memory.buffer, address + expert.index * EXPERT_BYTES, 16);
  for (const [i, { tensor, shape, address }] of expert.matrices.entries()) {
    words.set([shape.kind, tensor.rows, tensor.cols, address], i * MATRIX_WORDS);
  }
  words.set(expert.biases, BIAS_WORD);
}

/** Says where an expert's matrices are now, gate, up and down; zeros where it is not in memory. */
export function moveExpert(
  { bank, address }: ExpertTable,
  { index, addresses }: { index: number; addresses: readonly number[] },
): void {
  const words = new Uint32Array(bank.memory.buffer, address + index * EXPERT_BYTES, 16);
  for (const [i, data] of addresses.entries()) words[i * MATRIX_WORDS + DATA_WORD] = data;
}

/** Where an expert's matrices are, gate, up and down; zeros where it is not in this bank's memory. */
export function addressesOf({ bank, address }: ExpertTable, index: number) {
  const words = new Uint32Array(bank.memory.buffer, address + index * EXPERT_BYTES, 16);
  return {
    matrices: [0, 1, 2].map((i) => words[i * MATRIX_WORDS + DATA_WORD]),
    /** Zeros where there are none. */
    biases: [0, 1, 2].map((i) => words[BIAS_WORD + i]),
  };
}
