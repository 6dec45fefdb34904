/** Routed experts as kernels see them: in ranges of whole experts, each in one part of its matrices. */

import { UnsupportedOpError } from "../../../errors.ts";
import type { ExpertsParams } from "../../backend.ts";
import type { Binding } from "../kernel.ts";
import type { GpuWeight, WeightPart } from "../memory.ts";
import { BLOCK, rowQuantWords } from "../weights/format.ts";
import { SIGMOID } from "./moe_common.ts";

/** Experts `first` to `end`, and the part of each matrix in which they lie. */
export interface ExpertRange {
  readonly first: number;
  readonly end: number;
  readonly parts: readonly WeightPart[];
}

/**
 * The ranges of matrices `[count * rows, cols]` of one count and possibly several types, in ascending
 * order. There are several where a matrix is larger than a kernel can see.
 */
export function expertRanges(matrices: readonly GpuWeight[], rows: number): ExpertRange[] {
  const starts = new Set<number>();
  for (const { name, parts } of matrices) {
    for (const { firstRow } of parts) {
      if (firstRow % rows !== 0) {
        throw new UnsupportedOpError(
          `cannot record experts: one expert of ${name} lies in several buffers, must lie in one`,
        );
      }
      starts.add(firstRow / rows);
    }
  }
  const count = matrices[0].rows / rows;
  const sorted = [...starts].sort((a, b) => a - b);
  return sorted.map((first, i) => ({
    first,
    end: sorted[i + 1] ?? count,
    parts: matrices.map(({ parts }) => parts.findLast((part) => part.firstRow <= first * rows)!),
  }));
}

/** Experts of a part that lie before a range: the range's row 0 is that many experts' rows further. */
export function expertsBefore(range: ExpertRange, part: WeightPart, rows: number): number {
  return range.first - part.firstRow / rows;
}

/** Whether rows of so many values can be read as vectors. */
export function wholeRows(cols: number): boolean {
  return cols % BLOCK === 0;
}

/** Biases `[count, rows]` as a binding, and WGSL of value `row` of those with number `id`. */
export function biasOf(
  name: string,
  weight: GpuWeight | undefined,
): { bindings: Binding[]; plus: (id: string, row: string) => string } {
  if (weight === undefined) return { bindings: [], plus: () => "" };
  const stride = rowQuantWords(weight.format, weight.cols);
  return {
    bindings: [{ name, buffer: weight.parts[0].memory }],
    plus: (id, row) => ` + ${name}[${id} * ${stride}u + ${row}]`,
  };
}

/** WGSL of `activated(gate, up)`. */
export const ACTIVATIONS: Record<ExpertsParams["activation"], string> = {
  silu: `${SIGMOID}
fn activated(gate: f32, up: f32) -> f32 { return gate * sigmoid(gate) * up; }`,
  clampedSwiglu: `${SIGMOID}
fn activated(gate: f32, up: f32) -> f32 {
  let g = min(gate, 7.0);
  let u = clamp(up, -7.0, 7.0);
  return (u + 1.0) * (g * sigmoid(1.702 * g));
}`,
};

/**
 * WGSL of the place of slot `j` of row `t` in the order in which experts are added: that of their ids,
 * whatever the order of the slots.
 */
export function placeOf(topK: number): string {
  return `
fn place_of(t: u32, j: u32) -> u32 {
  let id = expertIds[t * ${topK}u + j];
  var place = 0u;
  for (var i = 0u; i < ${topK}u; i++) {
    let other = expertIds[t * ${topK}u + i];
    place += u32(other < id || (other == id && i < j));
  }
  return place;
}`;
}
