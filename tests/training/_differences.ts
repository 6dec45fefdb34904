/**
 * Gradients against finite differences: an op's outputs times random coefficients are a loss, and each
 * input is moved a little to see how the loss changes.
 */

import type { Buffer, Plan, Weight } from "../../src/backend/backend.ts";
import type { Parameter, TrainingBackend } from "../../src/backend/training.ts";
import { normals } from "../backend/_random.ts";

/** Numbers that the loss depends on, in a buffer or a parameter. */
export interface Input {
  readonly values: Float32Array;
  write(values: Float32Array): void;
  /** The gradient that the backward plan has left. */
  gradient(): Promise<Float32Array>;
}

/** Inputs, with buffers for them and for their gradients. */
export class Bench {
  readonly backend: TrainingBackend;
  readonly random: () => number;
  readonly inputs = new Map<string, Input>();

  constructor(backend: TrainingBackend, random: () => number) {
    this.backend = backend;
    this.random = random;
  }

  [Symbol.dispose](): void {
    this.backend.close();
  }

  buffer(rows: number, width: number): Buffer {
    return this.backend.createBuffer({ kind: "f32", rows, width });
  }

  integers(values: readonly number[], width = 1): Buffer {
    const shape = { kind: "i32", rows: values.length / width, width } as const;
    const buffer = this.backend.createBuffer(shape);
    this.backend.write(buffer, Int32Array.from(values));
    return buffer;
  }

  floats(values: ArrayLike<number>, width = 1): Buffer {
    const buffer = this.buffer(values.length / width, width);
    this.backend.write(buffer, Float32Array.from(values));
    return buffer;
  }

  /** Random rows that are differentiated by, and a buffer for their gradient. */
  activation(
    name: string,
    { rows, width, scale = 1 }: { rows: number; width: number; scale?: number },
  ): { buffer: Buffer; gradient: Buffer } {
    const { backend } = this;
    const values = normals(this.random, { length: rows * width, scale });
    const buffer = this.floats(values, width);
    const gradient = this.buffer(rows, width);
    this.inputs.set(name, {
      values,
      write: (changed) => backend.write(buffer, changed),
      gradient: () => backend.read(gradient),
    });
    return { buffer, gradient };
  }

  /** A random weight with a gradient; `around` is added to each value (1 for a norm). */
  async weight(
    name: string,
    options: { rows: number; cols: number; scale?: number; around?: number },
  ): Promise<Weight> {
    const { rows, cols, scale = 0.5, around = 0 } = options;
    const values = normals(this.random, { length: rows * cols, scale }).map((x) => x + around);
    const weight = await this.backend.upload(matrixOf(name, { rows, cols, values }));
    this.parameter(name, this.backend.parameterOf(weight), values);
    return weight;
  }

  parameter(name: string, parameter: Parameter, values: Float32Array): void {
    const { backend } = this;
    backend.allocateGradients([parameter], { moments: 0 });
    this.inputs.set(name, {
      values,
      write: (changed) => backend.writeParameter(parameter, "value", changed),
      gradient: () => backend.readParameter(parameter, "gradient"),
    });
  }
}

/** A tensor as a file would hold it. */
export function matrixOf(
  name: string,
  { rows, cols, values }: { rows: number; cols: number; values: Float32Array },
) {
  const bytes = new Uint8Array(values.slice().buffer);
  return {
    name,
    type: "F32" as const,
    rows,
    cols,
    read(offset: number, into: Uint8Array): Promise<void> {
      into.set(bytes.subarray(offset, offset + into.length));
      return Promise.resolve();
    },
  };
}

const STEP = 4e-3;
const SAMPLES = 24;

export interface Comparison {
  readonly what: string;
  readonly forward: Plan;
  /** Runs after the forward plan. */
  readonly backward: Plan;
  /** What the loss is made of: the sum of products with the coefficients. */
  readonly outputs: readonly { buffer: Buffer; coefficients: Float32Array }[];
  /** Of the largest gradient; what float32 outputs and the step leave of a difference. */
  readonly tolerance?: number;
}

/** Throws where a gradient is not what the differences say. Looks at some values of each input. */
export async function assertGradients(bench: Bench, comparison: Comparison): Promise<void> {
  const { backend, random, inputs } = bench;
  const { what, forward, backward, outputs, tolerance = 2e-3 } = comparison;
  const restore = () => inputs.forEach((input) => input.write(input.values));
  const loss = async () => {
    backend.submit(forward);
    let sum = 0;
    for (const { buffer, coefficients } of outputs) {
      const values = await backend.read(buffer);
      coefficients.forEach((c, i) => sum += c * values[i]);
    }
    return sum;
  };
  restore();
  backend.submit(forward);
  backend.submit(backward);
  const gradients = new Map<string, Float32Array>();
  for (const [name, input] of inputs) gradients.set(name, await input.gradient());
  for (const [name, input] of inputs) {
    const gradient = gradients.get(name)!;
    const largest = gradient.reduce((most, g) => Math.max(most, Math.abs(g)), 0);
    if (!(largest > 0)) throw new Error(`${what}: the gradient of ${name} is all zero or NaN`);
    for (let sample = 0; sample < SAMPLES; sample++) {
      const i = Math.floor(random() * input.values.length);
      const at = async (step: number) => {
        restore();
        const changed = input.values.slice();
        changed[i] += step;
        input.write(changed);
        return await loss();
      };
      const difference = (await at(STEP) - await at(-STEP)) / (2 * STEP);
      if (Math.abs(difference - gradient[i]) <= tolerance * largest) continue;
      throw new Error(
        `${what}: the gradient of ${name} at ${i} is ${gradient[i]}, must be about ${difference}`,
      );
    }
  }
}
