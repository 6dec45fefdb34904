/** Ops of training that treat each number, or each row, by itself. */

import type * as params from "../../training_params.ts";
import { bufferOf } from "../memory.ts";
import type { OpContext } from "../ops/context.ts";
import { SIGMOID } from "../ops/moe_common.ts";
import { each, reads, writes } from "./arrays.ts";

export function copy(context: OpContext, { from, to, rows }: params.CopyParams): void {
  each(context, {
    label: "copy",
    arrays: { from: reads(from, "u32"), to: writes(to, "u32") },
    count: rows * from.width,
    body: (names) => `${names.to}[i] = ${names.from}[i];`,
  });
}

export function fill(context: OpContext, { buffer, value }: params.FillParams): void {
  const count = buffer.rows * buffer.width;
  fillValues(context, bufferOf(buffer).memory, { count, value });
}

export function fillValues(
  context: OpContext,
  memory: GPUBuffer,
  { count, value }: { count: number; value: number },
): void {
  each(context, {
    label: "fill",
    arrays: { out: writes(memory) },
    params: { value: { f32: value } },
    count,
    body: ({ out }) => `${out}[i] = params.value;`,
  });
}

export function swiglu(context: OpContext, { gate, up, out, rows }: params.SwigluParams): void {
  each(context, {
    label: "swiglu",
    arrays: { gate: reads(gate), up: reads(up), out: writes(out) },
    count: rows * out.width,
    declare: SIGMOID,
    body: (names) =>
      `let gate = ${names.gate}[i];
  ${names.out}[i] = gate * sigmoid(gate) * ${names.up}[i];`,
  });
}

export function swigluBackward(context: OpContext, params: params.SwigluBackwardParams): void {
  const { gate, up, outGradient, gateGradient, upGradient, rows } = params;
  each(context, {
    label: "swigluBackward",
    arrays: {
      ...{ gate: reads(gate), up: reads(up), outGradient: reads(outGradient) },
      ...{ gateGradient: writes(gateGradient), upGradient: writes(upGradient) },
    },
    count: rows * outGradient.width,
    declare: SWIGLU_SLOPES,
    body: (names) =>
      `let slopes = swiglu_slopes(${names.gate}[i], ${names.up}[i]);
  let gradient = ${names.outGradient}[i];
  ${names.gateGradient}[i] = gradient * slopes.x;
  ${names.upGradient}[i] = gradient * slopes.y;`,
  });
}

/** WGSL of the derivatives of `silu(gate) up` by both, and of itself, in `z`. */
export const SWIGLU_SLOPES = `${SIGMOID}
fn swiglu_slopes(gate: f32, up: f32) -> vec3<f32> {
  let s = sigmoid(gate);
  let silu = gate * s;
  return vec3<f32>(up * s * fma(gate, 1.0 - s, 1.0), silu, silu * up);
}`;

export function gatherRowsBackward(
  context: OpContext,
  params: params.GatherRowsBackwardParams,
): void {
  const { indices, outGradient, target, targetRows, rows } = params;
  const { width } = target.buffer;
  const { memory } = bufferOf(target.buffer);
  if (!target.accumulate) fillValues(context, memory, { count: targetRows * width, value: 0 });
  each(context, {
    label: "gatherRowsBackward",
    arrays: {
      ...{ indices: reads(indices), outGradient: reads(outGradient), out: writes(memory) },
    },
    params: { width, target_rows: targetRows },
    count: rows * width,
    body: (names) =>
      `let row = u32(${names.indices}[i / params.width]);
  if (row < params.target_rows) {
    ${names.out}[row * params.width + i % params.width] += ${names.outGradient}[i];
  }`,
  });
}
