/**
 * The GPU backend with what training adds, in float32 or with weights and kept activations in halves, whose
 * products are summed in float32 all the same. Every op, the norm of the gradients, the update and the clock
 * run on the device, and nothing is read back: a step is one submission for each of its micro-batches. Sums
 * have an order that depends on shapes only, so that two runs have the same bits on one adapter.
 */

import { UnsupportedOpError } from "../../../errors.ts";
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
import { GpuHalfBuffer, halfBytes } from "./halves.ts";
import {
  type GpuExpertParameters,
  GpuParameter,
  gpuParameterOf,
  type Trained,
} from "./parameters.ts";
import { TrainingRecorder } from "./recorder.ts";
import { asFloats, asHalves, halvesOf, stacked } from "./tensors.ts";

export interface WebGpuTrainingOptions extends WebGpuBackendOptions {
  /** float32 by default. */
  readonly storage?: "f32" | "f16";
}

/** Opens a backend that trains on the best adapter. Throws CapacityError where there is none. */
export async function createWebGpuTrainingBackend(
  options: WebGpuTrainingOptions = {},
): Promise<TrainingBackend> {
  return new WebGpuTrainingBackend(await openGpu(), options);
}

class WebGpuTrainingBackend extends WebGpuBackend implements TrainingBackend, Trained {
  readonly storage: "f32" | "f16";
  readonly #weights = new Map<GpuWeight, GpuParameter>();
  readonly #layers = new Map<GpuExperts, GpuExpertParameters>();

  constructor(gpu: Gpu, options: WebGpuTrainingOptions) {
    super(gpu, options);
    this.storage = options.storage ?? "f32";
  }

  override async upload(tensor: TensorData, options: UploadOptions = {}): Promise<Weight> {
    const master = await this.#master(tensor, options);
    // Vectors are few, and the gate's weights are to be exact.
    const isPlain = tensor.rows === 1 || options.exact === true || this.storage === "f32";
    const halves = isPlain ? undefined : weightOf(await super.upload(asHalves(tensor), options));
    const weight = halves ?? master;
    this.#weights.set(weight, new GpuParameter([tensor.name], master, halves));
    return weight;
  }

  async #master(tensor: TensorData, options: UploadOptions = {}): Promise<GpuWeight> {
    return weightOf(await super.upload(asFloats(tensor), { ...options, exact: true }));
  }

  override async uploadExperts(tensors: ExpertTensors): Promise<Experts> {
    const { layer, gate, up, down, biases } = tensors;
    if (biases !== undefined) {
      throw new UnsupportedOpError(
        `cannot train the experts of layer ${layer}: they have biases, must have none`,
      );
    }
    const convert = this.storage === "f32" ? asFloats : asHalves;
    const uploaded = await super.uploadExperts({
      layer,
      gate: gate.map(convert),
      up: up.map(convert),
      down: down.map(convert),
    });
    const experts = expertsOf(uploaded);
    const parameter = async (part: "gate" | "up" | "down") => {
      const names = tensors[part].map(({ name }) => name);
      const weight = experts[part];
      if (weight.format.type === "F32") return new GpuParameter(names, weight);
      return new GpuParameter(names, await this.#master(stacked(tensors[part])), weight);
    };
    this.#layers.set(experts, {
      gate: await parameter("gate"),
      up: await parameter("up"),
      down: await parameter("down"),
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

  createHalfBuffer(options: { rows: number; width: number }): HalfBuffer {
    if (this.storage === "f32") {
      throw new UnsupportedOpError(
        "cannot store activations in halves: the backend's storage is f32, must be f16",
      );
    }
    const bytes = halfBytes(options.rows * options.width);
    return new GpuHalfBuffer(options, this.allocate("workspace", bytes, "a buffer of halves"));
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
    const padded = parameter.withPadding(values);
    this.writeMemory(memory, padded);
    if (slot === "value" && parameter.halves !== null) {
      this.writeMemory(parameter.halves, halvesOf(padded));
    }
  }

  trainingBytes(): number {
    const layers = [...this.#layers.values()].flatMap(({ gate, up, down }) => [gate, up, down]);
    return [...this.#weights.values(), ...layers]
      .reduce((sum, { trainingBytes }) => sum + trainingBytes, 0);
  }

  bytesOf(buffer: Buffer | HalfBuffer): number {
    const count = buffer.rows * buffer.width;
    return "kind" in buffer ? count * 4 : halfBytes(count);
  }
}
