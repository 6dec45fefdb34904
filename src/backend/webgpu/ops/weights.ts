/** Weights as bindings. */

import type { Binding } from "../kernel.ts";
import type { GpuWeight, WeightPart } from "../memory.ts";

/** The planes of a part as its format's `decode(name, ...)` reads them. */
export function partBindings(
  name: string,
  { format, cols }: GpuWeight,
  part: WeightPart,
): Binding[] {
  const { memory: buffer, planes } = part;
  const quants: Binding = {
    name: `${name}_q`,
    buffer,
    type: "array<vec4<u32>>",
    offset: 0,
    size: planes.quantBytes,
  };
  if (format.scaleWords(cols) === 0) return [quants];
  const { scaleOffset: offset, scaleBytes: size } = planes;
  return [quants, { name: `${name}_s`, buffer, type: "array<u32>", offset, size }];
}
