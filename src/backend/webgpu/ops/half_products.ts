/**
 * What the kernels for products of halves share: the sum of eight neighbouring columns' products is computed
 * in half precision, column by column with one `fma` each, from zero; it times the factor of `x`'s block
 * is added to a sum of float32. So no error of half precision grows with a row's length. The order of these
 * sums is that of `products.ts`, and an output has the same bits whichever kernel computed it.
 *
 * A sum of eight products is at most eight times the largest weight: halves are too small for it only where
 * weights are above 8188.
 */

import { unrolled } from "../kernel.ts";
import type { Binding } from "../kernel.ts";
import type { GpuWeight } from "../memory.ts";
import { blocksOf } from "../weights/format.ts";
import type { OpContext } from "./context.ts";
import { HALVES } from "./half_rows.ts";
import { bindingsOf, type Input, type Slice } from "./products.ts";

/** Columns whose products are added in half precision. */
export const HALF_COLUMNS = 8;

/** Whether products with these are computed with halves. */
export function useHalves(
  { activations, halves }: Pick<OpContext, "activations" | "halves">,
  matrices: readonly { readonly weight: Pick<GpuWeight, "format"> }[],
): boolean {
  return halves && activations === "q8" &&
    matrices.every(({ weight }) => weight.format.halves === true);
}

/** WGSL of `Halves` and, for these matrices, of `NAME_halves(row, unit)`, values 8 unit .. 8 unit + 7 of a row. */
export function halfMatrices(matrices: readonly { name: string; weight: GpuWeight }[]): string {
  const own = matrices.map(({ name, weight: { cols } }) => `
fn ${name}_halves(row: u32, unit: u32) -> Halves {
  return ${name}_q[row * ${blocksOf(cols) * 4}u + unit];
}`);
  return `${HALVES}${own.join("")}`;
}

/** The buffers of slices and of `x` as halves. */
export function halfBindings({ x, factors }: Input, slices: readonly Slice[]): Binding[] {
  const quants = "array<vec4<u32>>";
  return [
    ...slices.flatMap(bindingsOf).map((binding) =>
      binding.type === quants ? { ...binding, type: "array<Halves>" } : binding
    ),
    { name: "x", buffer: x, type: "array<Halves>" },
    { name: "factors", buffer: factors! },
  ];
}

/** Buffers of `x`. */
export const HALF_INPUTS = 2;

/**
 * WGSL statements that leave in a new variable `sum` the sum of the products of HALF_COLUMNS columns: `w(c)`
 * times `x(c)`, of type `f16` or vectors of it.
 */
export function sumHalves(
  sum: string,
  { type, w, x }: { type: string; w: (c: number) => string; x: (c: number) => string },
): string {
  return `var ${sum} = ${type}();
${unrolled(HALF_COLUMNS, (c) => `${sum} = fma(${w(c)}, ${x(c)}, ${sum});`)}`;
}

/** WGSL of column c of some `Halves`. */
export function columnOf(halves: string, c: number): string {
  return `${halves}.${c < 4 ? "a" : "b"}.${"xyzw"[c % 4]}`;
}
