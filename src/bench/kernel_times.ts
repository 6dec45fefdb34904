/** What GPU kernels have taken of a step, beside what they read and compute. */

import type { KernelTime } from "../backend/webgpu/profiler.ts";
import { rowBytes, TENSOR_TYPES, type TensorType } from "../quant/types.ts";
import { percent, table } from "./report.ts";
import { threeDigits } from "./statistics.ts";

export interface KernelFigure {
  readonly label: string;
  /** Dispatches of a step. */
  readonly dispatches: number;
  /** Of one dispatch, and of all of a step. */
  readonly dispatchSeconds: number;
  readonly stepSeconds: number;
  /** Of all kernels' time. */
  readonly share: number;
  /** Of weights; null where it is not known. */
  readonly bytesPerSecond: number | null;
  readonly operationsPerSecond: number | null;
}

export interface KernelFigures {
  readonly steps: number;
  /** Seconds of a step, each kernel in a pass of its own. */
  readonly stepSeconds: number;
  readonly kernels: readonly KernelFigure[];
}

/** The steps in which times were taken. */
export interface KernelSteps {
  readonly steps: number;
  /** Rows of each. */
  readonly rows: number;
  /** Layers with routed experts, and experts a row. */
  readonly routed: { readonly layers: number; readonly topK: number };
}

/** Figures by kernel, the longest first. */
export function kernelFigures(times: readonly KernelTime[], timed: KernelSteps): KernelFigures {
  const { steps } = timed;
  const all = times.reduce((sum, { seconds }) => sum + seconds, 0);
  const kernels = times.map((time): KernelFigure => {
    const { label, dispatches, seconds } = time;
    const { bytes, operations } = time.work ?? expertWork(time, timed) ?? UNKNOWN;
    return {
      label,
      dispatches: dispatches / steps,
      dispatchSeconds: seconds / dispatches,
      stepSeconds: seconds / steps,
      share: all === 0 ? 0 : seconds / all,
      bytesPerSecond: bytes === null ? null : bytes / seconds,
      operationsPerSecond: operations === null ? null : operations / seconds,
    };
  });
  kernels.sort((a, b) => b.stepSeconds - a.stepSeconds);
  return { steps, stepSeconds: all / steps, kernels };
}

const UNKNOWN = { bytes: null, operations: null };

/** `experts gate and up, pairs Q8_0 1408x2048` */
const EXPERTS = /^experts (gate and up|down), \w+ (\w+)(?: q\d+)? (\d+)x(\d+)$/;

/** Of the chosen experts; how many different ones many rows choose, and so what is read, is not known. */
function expertWork(
  { label, dispatches }: KernelTime,
  { steps, rows, routed: { layers, topK } }: KernelSteps,
): { bytes: number | null; operations: number } | null {
  const match = EXPERTS.exec(label);
  if (match === null || !Object.hasOwn(TENSOR_TYPES, match[2])) return null;
  const [, part, type, height, width] = match;
  // A layer's rows may be cut into several dispatches.
  const chosen = Math.min(dispatches, steps * layers) * rows * topK;
  const matrixRows = chosen * (part === "down" ? 1 : 2) * Number(height);
  return {
    bytes: rows === 1 ? matrixRows * rowBytes(type as TensorType, Number(width)) : null,
    operations: 2 * matrixRows * Number(width),
  };
}

/** A table for people. */
export function formatKernels(figures: KernelFigures): string {
  const number = (value: number | null, unit: number) =>
    value === null ? "-" : threeDigits(value / unit);
  return table([
    ["kernel", "a step", "each us", "in all ms", "share", "GB/s", "TFLOP/s"],
    ...figures.kernels.map((kernel) => [
      kernel.label,
      String(Number(kernel.dispatches.toFixed(2))),
      threeDigits(kernel.dispatchSeconds * 1e6),
      threeDigits(kernel.stepSeconds * 1e3),
      percent(kernel.share),
      number(kernel.bytesPerSecond, 1e9),
      number(kernel.operationsPerSecond, 1e12),
    ]),
  ]).join("\n");
}
