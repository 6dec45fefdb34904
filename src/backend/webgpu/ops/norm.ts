/**
 * RMSNorm in WGSL, for a kernel of its own and for those of products that norm their input themselves.
 * NORM_LANES threads add a row's squares, four neighbouring values at a time; the order of additions
 * depends on nothing but the width.
 */

import type { Norm } from "../../backend.ts";
import { type Binding, f32Literal, type Parameter } from "../kernel.ts";
import { weightOf } from "../memory.ts";

/** Threads of a workgroup that norms rows. */
export const NORM_LANES = 128;
/** Sums that those of the threads are added to before they are added to one. */
const HALFWAY = 16;

/** Bytes of workgroup memory that `normFactor` takes for each row, besides `sums`. */
export const NORM_BYTES = HALFWAY * 4;

/** WGSL of what `normFactor` keeps in workgroup memory, for so many rows at once. */
export function normMemory(rows: number): string {
  return `var<workgroup> halfway: array<f32, ${HALFWAY * rows}>;`;
}

/**
 * WGSL statements that leave `factorT`, 1 / rms, of rows T = 0 .. rows - 1 with every thread. `load(t)`
 * is the WGSL of vector `i` of row t. They use `sums`, NORM_LANES numbers a row of workgroup memory.
 */
export function normFactors(
  { rows, width, load }: { rows: number; width: number; load: (t: number) => string },
): string {
  const each = (text: (t: number) => string) => Array.from({ length: rows }, (_, t) => text(t));
  return `
${
    each((t) =>
      `  {
    var square = 0.0;
    for (var i = lane; i < ${Math.ceil(width / 4)}u; i += ${NORM_LANES}u) {
      let v = ${load(t)};
      square = fma(v.x, v.x, square);
      square = fma(v.y, v.y, square);
      square = fma(v.z, v.z, square);
      square = fma(v.w, v.w, square);
    }
    sums[${t * NORM_LANES}u + lane] = square;
  }`
    ).join("\n")
  }
  workgroupBarrier();
  if (lane < ${HALFWAY * rows}u) {
    var sum = 0.0;
    for (var i = 0u; i < ${NORM_LANES / HALFWAY}u; i++) {
      sum += sums[lane / ${HALFWAY}u * ${NORM_LANES}u + i * ${HALFWAY}u + lane % ${HALFWAY}u];
    }
    halfway[lane] = sum;
  }
  workgroupBarrier();
${
    each((t) =>
      `  var factor${t} = 0.0;
  for (var i = 0u; i < ${HALFWAY}u; i++) { factor${t} += halfway[${t * HALFWAY}u + i]; }
  factor${t} = inverseSqrt(fma(factor${t}, ${f32Literal(1 / width)}, params.eps));`
    ).join("\n")
  }`;
}

/** The norm's weight; vectors of four where the width is a multiple of that. */
export function normBinding({ weight }: Norm, name: string): Binding {
  const { cols, parts: [{ memory }] } = weightOf(weight);
  return { name, buffer: memory, type: cols % 4 === 0 ? "array<vec4<f32>>" : "array<f32>" };
}

export function normParams({ eps }: Norm): Record<string, Parameter> {
  return { eps: { f32: eps } };
}
