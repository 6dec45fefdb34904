/**
 * Weights that change, in GPU memory: gradients and moments lie as their weight does, row by row, each
 * filled up with zeros to whole blocks, so that an update goes through all of them alike. Where products read
 * halves, those lie in the same order beside the float32 master.
 */

import { CapacityError } from "../../../errors.ts";
import type { Experts, Weight } from "../../backend.ts";
import { foreign } from "../../op_checks.ts";
import type { ExpertParameters, Parameter, Slot } from "../../training.ts";
import type { GpuWeight } from "../memory.ts";
import { rowQuantWords } from "../weights/format.ts";

type Allocate = (bytes: number, purpose: string) => GPUBuffer;

export class GpuParameter implements Parameter {
  readonly names: readonly string[];
  readonly rows: number;
  readonly cols: number;
  /** Numbers from one row to the next. */
  readonly stride: number;
  /** Float32: what updates change. */
  readonly value: GPUBuffer;
  /** The same numbers rounded; null where products read the float32. */
  readonly halves: GPUBuffer | null;
  gradient: GPUBuffer | null = null;
  first: GPUBuffer | null = null;
  second: GPUBuffer | null = null;

  /** `weight` is of type F32, and `halves` of F16, where there are any. */
  constructor(names: readonly string[], weight: GpuWeight, halves?: GpuWeight) {
    const { name, rows, cols, format, parts } = weight;
    if (parts.length !== 1) {
      throw new CapacityError(
        `cannot train ${name}: it lies in ${parts.length} buffers, must fit the adapter's largest one`,
      );
    }
    this.names = names;
    this.rows = rows / names.length;
    this.cols = cols;
    this.stride = rowQuantWords(format, cols);
    this.value = parts[0].memory;
    this.halves = halves?.parts[0].memory ?? null;
  }

  get isRounded(): boolean {
    return this.halves !== null;
  }

  /** What products read. */
  get stored(): GPUBuffer {
    return this.halves ?? this.value;
  }

  /** Numbers of all tensors with what fills their rows up, and of one. */
  get padded(): number {
    return this.names.length * this.paddedEach;
  }

  get paddedEach(): number {
    return this.rows * this.stride;
  }

  /** Numbers of all tensors. */
  get length(): number {
    return this.names.length * this.rows * this.cols;
  }

  /** Bytes of gradients and moments, and of the master where that is not what products read. */
  get trainingBytes(): number {
    return [this.gradient, this.first, this.second, this.isRounded ? this.value : null]
      .reduce((sum, memory) => sum + (memory?.size ?? 0), 0);
  }

  /** Makes room for a gradient and moments; returns those there were before, which are to be emptied. */
  allocate(moments: 0 | 1 | 2, allocate: Allocate): GPUBuffer[] {
    const before: GPUBuffer[] = [];
    for (const slot of (["gradient", "first", "second"] as const).slice(0, 1 + moments)) {
      const memory = this[slot];
      if (memory !== null) before.push(memory);
      else this[slot] = allocate(this.padded * 4, `the ${slot} of ${this.names[0]}`);
    }
    return before;
  }

  /** Throws CapacityError where there is no room. */
  slot(slot: Slot): GPUBuffer {
    const memory = this[slot];
    if (memory !== null) return memory;
    throw new CapacityError(
      `cannot use the ${slot} of ${
        this.names[0]
      }: there is no room for it, must be allocated first`,
    );
  }

  /** Numbers as the host has them from those in memory, and the reverse. */
  unpadded(values: Float32Array): Float32Array {
    const { cols, stride } = this;
    if (cols === stride) return values;
    const packed = new Float32Array(this.length);
    for (let row = 0; row * cols < packed.length; row++) {
      packed.set(values.subarray(row * stride, row * stride + cols), row * cols);
    }
    return packed;
  }

  withPadding(values: Float32Array): Float32Array<ArrayBuffer> {
    const { cols, stride } = this;
    const padded = new Float32Array(this.padded);
    for (let row = 0; row * cols < values.length; row++) {
      padded.set(values.subarray(row * cols, (row + 1) * cols), row * stride);
    }
    return padded;
  }
}

export function gpuParameterOf(parameter: Parameter): GpuParameter {
  if (parameter instanceof GpuParameter) return parameter;
  throw foreign("parameter");
}

export type GpuExpertParameters =
  & ExpertParameters
  & {
    readonly [Part in keyof ExpertParameters]: GpuParameter;
  };

/** What of a backend's weights are parameters. */
export interface Trained {
  parameterOf(weight: Weight): GpuParameter;
  parametersOf(experts: Experts): GpuExpertParameters;
}
