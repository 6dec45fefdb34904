/**
 * The GPU backend with what training adds, in float32. Every op, the norm of the gradients, the update
 * and the clock run on the device, and nothing is read back: a step is one submission for each of its
 * micro-batches. Sums have an order that depends on shapes only, so that two runs have the same bits on
 * one adapter.
 */

import { UnsupportedOpError } from "../../../errors.ts";
import { dequantize } from "../../../quant/dequantize.ts";
import { rowBytes } from "../../../quant/types.ts";
import type {
  Buffer,
  Experts,
  ExpertTensors,
  Plan,
  TensorData,
  UploadOptions,
  Weight,
} from "../../backend.ts";
import { foreign } from "../../op_checks.ts";
import type { HalfBuffer, Parameter, Slot, TrainingBackend, TrainingOps } from "../../training.ts";
import { type Gpu, openGpu } from "../device.ts";
import { expertsOf, type GpuExperts, type GpuWeight, weightOf } from "../memory.ts";
import { WebGpuBackend, type WebGpuBackendOptions } from "../mod.ts";
import {
  type GpuExpertParameters,
  GpuParameter,
  gpuParameterOf,
  type Trained,
} from "./parameters.ts";
import { noHalves, TrainingRecorder } from "./recorder.ts";

/** Opens a backend that trains on the best adapter. Throws CapacityError where there is none. */
export async function createWebGpuTrainingBackend(
  options: WebGpuBackendOptions = {},
): Promise<TrainingBackend> {
  return new WebGpuTrainingBackend(await openGpu(), options);
}

class WebGpuTrainingBackend extends WebGpuBackend implements TrainingBackend, Trained {
  readonly storage = "f32";
  readonly #weights = new Map<GpuWeight, GpuParameter>();
  readonly #layers = new Map<GpuExperts, GpuExpertParameters>();

  constructor(gpu: Gpu, options: WebGpuBackendOptions) {
    super(gpu, options);
  }

  override async upload(tensor: TensorData, options: UploadOptions = {}): Promise<Weight> {
    const weight = weightOf(await super.upload(asFloats(tensor), { ...options, exact: true }));
    this.#weights.set(weight, new GpuParameter([tensor.name], weight));
    return weight;
  }

  override async uploadExperts(tensors: ExpertTensors): Promise<Experts> {
    const { layer, gate, up, down, biases } = tensors;
    if (biases !== undefined) {
      throw new UnsupportedOpError(
        `cannot train the experts of layer ${layer}: they have biases, must have none`,
      );
    }
    const uploaded = await super.uploadExperts({
      layer,
      gate: gate.map(asFloats),
      up: up.map(asFloats),
      down: down.map(asFloats),
    });
    const experts = expertsOf(uploaded);
    const parameter = (part: "gate" | "up" | "down") =>
      new GpuParameter(tensors[part].map(({ name }) => name), experts[part]);
    this.#layers.set(experts, {
      gate: parameter("gate"),
      up: parameter("up"),
      down: parameter("down"),
    });
    return uploaded;
  }

  parameterOf(weight: Weight): GpuParameter {
    const parameter = this.#weights.get(weightOf(weight));
    if (parameter === undefined) throw foreign("weight");
    return parameter;
  }

  parametersOf(experts: Experts): GpuExpertParameters {
    const parameters = this.#layers.get(expertsOf(experts));
    if (parameters === undefined) throw foreign("layer's experts");
    return parameters;
  }

  allocateGradients(
    parameters: readonly Parameter[],
    { moments }: { moments: 0 | 1 | 2 },
  ): void {
    for (const of of parameters) {
      const parameter = gpuParameterOf(of);
      const before = parameter.allocate(
        moments,
        (bytes, purpose) => this.allocate("workspace", bytes, purpose),
      );
      for (const memory of before) this.writeMemory(memory, new Float32Array(parameter.padded));
    }
  }

  createHalfBuffer(): HalfBuffer {
    throw noHalves();
  }

  recordTraining(build: (ops: TrainingOps) => void): Plan {
    return this.recordBy<TrainingRecorder>(
      (context) => new TrainingRecorder(context, this),
      build,
    );
  }

  async readParameter(of: Parameter, slot: Slot): Promise<Float32Array> {
    const parameter = gpuParameterOf(of);
    const bytes = await this.readMemory(parameter.slot(slot), parameter.padded * 4);
    return parameter.unpadded(new Float32Array(bytes.buffer));
  }

  writeParameter(of: Parameter, slot: Slot, values: Float32Array): void {
    const parameter = gpuParameterOf(of);
    const memory = parameter.slot(slot);
    if (values.length !== parameter.length) {
      throw new RangeError(
        `cannot write ${of.names[0]}: the values are ${values.length}, must be ${parameter.length}`,
      );
    }
    this.writeMemory(memory, parameter.withPadding(values));
  }

  trainingBytes(): number {
    const layers = [...this.#layers.values()].flatMap(({ gate, up, down }) => [gate, up, down]);
    return [...this.#weights.values(), ...layers]
      .reduce((sum, { trainingBytes }) => sum + trainingBytes, 0);
  }

  bytesOf({ rows, width }: Buffer | HalfBuffer): number {
    return rows * width * 4;
  }
}

/** The tensor as float32, whatever it is in its file; rows are converted as they are read. */
function asFloats(tensor: TensorData): TensorData {
  const { name, type, rows, cols } = tensor;
  if (type === "F32") return tensor;
  const bytesPerRow = rowBytes(type, cols);
  return {
    ...{ name, type: "F32", rows, cols },
    async read(offset, into) {
      const first = offset / (cols * 4);
      const count = into.length / (cols * 4);
      const bytes = new Uint8Array(count * bytesPerRow);
      await tensor.read(first * bytesPerRow, bytes);
      const values = new Float32Array(count * cols);
      dequantize(type, bytes, values);
      into.set(new Uint8Array(values.buffer));
    },
  };
}
