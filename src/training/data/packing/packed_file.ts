/**
 * Packed sequences as safetensors files: `ids` and `marks`, both I32 of shape [sequences, length]. A mark
 * is 2 * sample + target, and -1 for padding.
 */

import { SafetensorsArrays } from "../../../formats/safetensors/arrays.ts";
import { writeSafetensors } from "../../../formats/safetensors/writer.ts";
import type { PackedSequence } from "./packer.ts";

export function packedName(file: number): string {
  return `packed-${String(file).padStart(5, "0")}.safetensors`;
}

export function packedBytes(sequences: readonly PackedSequence[]): Uint8Array<ArrayBuffer> {
  const length = sequences[0]?.ids.length ?? 0;
  const shape = [sequences.length, length];
  const ids = new Int32Array(sequences.length * length);
  const marks = new Int32Array(sequences.length * length);
  for (const [i, sequence] of sequences.entries()) {
    ids.set(sequence.ids, i * length);
    sequence.samples.forEach((sample, at) => {
      marks[i * length + at] = sample < 0 ? -1 : 2 * sample + sequence.targets[at];
    });
  }
  return writeSafetensors([
    { name: "ids", dtype: "I32", shape, data: ids },
    { name: "marks", dtype: "I32", shape, data: marks },
  ]);
}

/** The sequences of a file. Throws FormatError where it is none. */
export function readPacked(bytes: Uint8Array, name: string): PackedSequence[] {
  const arrays = new SafetensorsArrays(bytes, name);
  const [count, length] = arrays.shape("ids");
  const [ids, marks] = [arrays.get("ids", "I32"), arrays.get("marks", "I32")];
  return Array.from({ length: count }, (_, i) => {
    const own = marks.subarray(i * length, (i + 1) * length);
    return {
      ids: ids.subarray(i * length, (i + 1) * length),
      targets: Uint8Array.from(own, (mark) => mark < 0 ? 0 : mark & 1),
      samples: own.map((mark) => mark < 0 ? -1 : mark >> 1),
    };
  });
}
