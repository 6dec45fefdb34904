/** Weights that change: what products read, the float32 master behind it, gradients and moments. */

import { CapacityError } from "../../../errors.ts";
import type { Experts, ExpertTensors, TensorData, Weight } from "../../backend.ts";
import { foreign } from "../../op_checks.ts";
import type { ExpertParameters, HalfBuffer, Parameter, Slot, Storage } from "../../training.ts";
import { ReferenceExperts, ReferenceWeight } from "../memory.ts";
import type { ExpertMatrices } from "../moe.ts";
import { roundingOf } from "./storage.ts";

/** Tensors of one shape, their numbers one after the other. */
export class TrainedTensors implements Parameter {
  readonly names: readonly string[];
  readonly rows: number;
  readonly cols: number;
  readonly storage: Storage;
  /** Rounded as they are stored. */
  readonly stored: Float32Array;
  /** The same array where storage is f32. */
  readonly master: Float32Array;
  gradient: Float32Array | null = null;
  first: Float32Array | null = null;
  second: Float32Array | null = null;

  constructor(
    shape: { names: readonly string[]; rows: number; cols: number },
    options: { values: Float32Array; storage: Storage },
  ) {
    const { values, storage } = options;
    this.names = shape.names;
    this.rows = shape.rows;
    this.cols = shape.cols;
    this.storage = storage;
    this.stored = values;
    this.master = storage === "f32" ? values : values.slice();
    this.store();
  }

  /** Numbers of one of the tensors. */
  get each(): number {
    return this.rows * this.cols;
  }

  /** Brings the stored values up to date with the masters. */
  store(): void {
    if (this.storage === "f32") return;
    const round = roundingOf(this.storage);
    for (const [i, value] of this.master.entries()) this.stored[i] = round(value);
  }

  /** Makes room for a gradient and moments, all zero. */
  allocate(moments: 0 | 1 | 2): void {
    const { length } = this.master;
    this.gradient = new Float32Array(length);
    this.first = moments > 0 ? new Float32Array(length) : null;
    this.second = moments > 1 ? new Float32Array(length) : null;
  }

  slot(slot: Slot): Float32Array {
    const values = slot === "value" ? this.master : this[slot];
    if (values !== null) return values;
    throw new CapacityError(
      `cannot use the ${slot} of ${
        this.names[0]
      }: there is no room for it, must be allocated first`,
    );
  }

  get trainingBytes(): number {
    const { gradient, first, second, master, storage } = this;
    const kept = [gradient, first, second, storage === "f32" ? null : master];
    return kept.reduce((sum, values) => sum + (values?.byteLength ?? 0), 0);
  }
}

export class TrainedWeight extends ReferenceWeight {
  readonly tensors: TrainedTensors;

  constructor(tensor: TensorData, tensors: TrainedTensors) {
    super(tensor, tensors.stored);
    this.tensors = tensors;
  }
}

export type ExpertPart = "gate" | "up" | "down";

export class TrainedExperts extends ReferenceExperts {
  readonly parameters: Readonly<Record<ExpertPart, TrainedTensors>>;

  constructor(tensors: ExpertTensors, parameters: Readonly<Record<ExpertPart, TrainedTensors>>) {
    super(tensors, tensors.gate.map((_, e) => matricesOf(parameters, e)));
    this.parameters = parameters;
  }
}

function matricesOf(
  parameters: Readonly<Record<ExpertPart, TrainedTensors>>,
  expert: number,
): ExpertMatrices {
  const matrix = ({ rows, cols, each, stored }: TrainedTensors) => ({
    rows,
    cols,
    values: stored.subarray(expert * each, (expert + 1) * each),
  });
  const { gate, up, down } = parameters;
  return { gate: matrix(gate), up: matrix(up), down: matrix(down), biases: undefined };
}

export class ReferenceHalfBuffer implements HalfBuffer {
  readonly rows: number;
  readonly width: number;
  readonly bits: Uint16Array;

  constructor({ rows, width }: { rows: number; width: number }) {
    this.rows = rows;
    this.width = width;
    this.bits = new Uint16Array(rows * width);
  }
}

export function tensorsOf(parameter: Parameter): TrainedTensors {
  if (parameter instanceof TrainedTensors) return parameter;
  throw foreign("parameter");
}

export function trainedOf(weight: Weight): TrainedTensors {
  if (weight instanceof TrainedWeight) return weight.tensors;
  throw foreign("weight");
}

export function trainedExpertsOf(
  experts: Experts,
): Readonly<Record<ExpertPart, TrainedTensors>> & ExpertParameters {
  if (experts instanceof TrainedExperts) return experts.parameters;
  throw foreign("layer's experts");
}

export function halvesOf(buffer: HalfBuffer): ReferenceHalfBuffer {
  if (buffer instanceof ReferenceHalfBuffer) return buffer;
  throw foreign("buffer of halves");
}
