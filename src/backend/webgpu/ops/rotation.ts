/** WGSL for a workgroup that readies one head: holds it, norms it, rotates it. */

import type { BatchBuffers } from "../../backend.ts";
import { PAGE_TOKENS } from "../../backend.ts";
import type { Binding } from "../kernel.ts";
import { bufferOf } from "../memory.ts";

/** Threads that ready a head together. */
export const LANES = 64;

/** Bindings of where rows belong, for `slot_of` and attention. */
export function batchBindings({ positions, sequences, pageTables }: BatchBuffers): Binding[] {
  const integers = "array<i32>";
  return [
    { name: "positions", buffer: bufferOf(positions).memory, type: integers },
    { name: "sequences", buffer: bufferOf(sequences).memory, type: integers },
    { name: "page_tables", buffer: bufferOf(pageTables).memory, type: integers },
  ];
}

/** WGSL of `slot_of(row)`, where the row's token lies in the cache; reads `params.tableWidth`. */
export const SLOT_OF = `
fn slot_of(row: u32) -> u32 {
  let position = u32(positions[row]);
  let entry = u32(sequences[row]) * params.tableWidth + position / ${PAGE_TOKENS}u;
  return u32(page_tables[entry]) * ${PAGE_TOKENS}u + position % ${PAGE_TOKENS}u;
}`;

/** WGSL of `held`, the numbers of a head (or of a token), and of `squares`, room to add them up. */
export function holding(numbers: number): string {
  return `
var<workgroup> held: array<f32, ${numbers}>;
var<workgroup> squares: array<f32, ${LANES}>;`;
}

/** WGSL that holds `count` numbers of an array. */
export function hold(array: string, { base, count }: { base: string; count: number }): string {
  return `
    for (var i = lane; i < ${count}u; i += ${LANES}u) { held[i] = ${array}[${base} + i]; }
    workgroupBarrier();`;
}

/** WGSL that norms the first `count` numbers held by RMSNorm. */
export function normHeld(
  weight: string,
  { count, eps }: { count: number; eps: string },
): string {
  return `
    var sum = 0.0;
    for (var i = lane; i < ${count}u; i += ${LANES}u) { sum = fma(held[i], held[i], sum); }
    squares[lane] = sum;
    workgroupBarrier();
    for (var half = ${LANES / 2}u; half > 0u; half /= 2u) {
      if (lane < half) { squares[lane] += squares[lane + half]; }
      workgroupBarrier();
    }
    let factor = 1.0 / sqrt(squares[0] / ${count}.0 + ${eps});
    for (var i = lane; i < ${count}u; i += ${LANES}u) { held[i] = held[i] * factor * ${weight}[i]; }
    workgroupBarrier();`;
}

/** WGSL that rotates pairs of the numbers held from `start` on by the row's `cos_sin`. */
export function rotateHeld(
  { start, rotaryDim, pairing }: {
    start: number;
    rotaryDim: number;
    pairing: "halves" | "interleaved";
  },
): string {
  const pairs = rotaryDim / 2;
  const [first, second] = pairing === "halves" ? ["i", `i + ${pairs}u`] : ["2u * i", "2u * i + 1u"];
  return `
    for (var i = lane; i < ${pairs}u; i += ${LANES}u) {
      let cosine = cos_sin[row * ${rotaryDim}u + i];
      let sine = cos_sin[row * ${rotaryDim}u + ${pairs}u + i];
      let a = held[${start}u + ${first}];
      let b = held[${start}u + ${second}];
      held[${start}u + ${first}] = fma(a, cosine, -(b * sine));
      held[${start}u + ${second}] = fma(a, sine, b * cosine);
    }
    workgroupBarrier();`;
}

/** WGSL that writes numbers held back to an array. */
export function giveBack(
  array: string,
  { base, start, count }: { base: string; start: number; count: number },
): string {
  return `
    for (var i = lane; i < ${count}u; i += ${LANES}u) { ${array}[${base} + i] = held[${start}u + i]; }`;
}
