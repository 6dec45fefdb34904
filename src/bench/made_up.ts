/** Matrices for measurements of kernels, where no file is at hand. */

import type { TensorData } from "../backend/backend.ts";
import type { TensorType } from "../quant/types.ts";

/** A prime, so that rows don't begin alike. */
const PATTERN_BYTES = 65521;

/**
 * A matrix of bytes between 0x11 and 0x2f: as float16, bfloat16 or power-of-two scales such bytes are
 * neither subnormal nor infinite in any type, and integer kernels take the same time for all values.
 */
export function madeUp(
  { type, rows, cols }: { type: TensorType; rows: number; cols: number },
): TensorData {
  const pattern = Uint8Array.from(
    { length: PATTERN_BYTES },
    (_, i) => 0x11 + (Math.imul(i, 0x9e3779b1) >>> 16) % 0x1f,
  );
  return {
    name: `${type} ${rows} x ${cols}`,
    type,
    rows,
    cols,
    read(offset, into) {
      for (let i = 0; i < into.length;) {
        const part = pattern.subarray((offset + i) % PATTERN_BYTES);
        into.set(part.subarray(0, into.length - i), i);
        i += part.length;
      }
      return Promise.resolve();
    },
  };
}
