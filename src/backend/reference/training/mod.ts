/** The reference backend with what training adds: what each op of `TrainingOps` means. */

import type {
  Buffer,
  Experts,
  ExpertTensors,
  Plan,
  TensorData,
  UploadOptions,
  Weight,
} from "../../backend.ts";
import { UnsupportedOpError } from "../../../errors.ts";
import { checkExpertTensors } from "../../expert_tensors.ts";
import type {
  ExpertParameters,
  HalfBuffer,
  Parameter,
  Slot,
  Storage,
  TrainingBackend,
  TrainingOps,
} from "../../training.ts";
import { ReferenceBackend, type ReferenceBackendOptions, ReferencePlan } from "../mod.ts";
import { readValues } from "../upload.ts";
import {
  type ExpertPart,
  ReferenceHalfBuffer,
  tensorsOf,
  TrainedExperts,
  trainedExpertsOf,
  trainedOf,
  TrainedTensors,
  TrainedWeight,
} from "./parameters.ts";
import { TrainingRecorder } from "./recorder.ts";

export interface TrainingOptions {
  readonly storage: Storage;
}

/** Opens a reference backend that trains; `storage` is f32 by default. */
export function createReferenceTrainingBackend(
  options: ReferenceBackendOptions & Partial<TrainingOptions> = {},
): TrainingBackend {
  return new ReferenceTrainingBackend({ storage: "f32", ...options });
}

class ReferenceTrainingBackend extends ReferenceBackend implements TrainingBackend {
  override readonly name = "reference";
  readonly storage: Storage;
  readonly #tensors = new Set<TrainedTensors>();

  constructor(options: ReferenceBackendOptions & TrainingOptions) {
    super(options);
    this.storage = options.storage;
  }

  override async upload(tensor: TensorData, options: UploadOptions = {}): Promise<TrainedWeight> {
    // Vectors are few, and the gate's weights are to be exact.
    const plain = tensor.rows === 1 || options.exact === true;
    const storage = plain ? "f32" : this.storage;
    return new TrainedWeight(tensor, await this.#take([tensor], storage));
  }

  override async uploadExperts(tensors: ExpertTensors): Promise<Experts> {
    checkExpertTensors(tensors);
    if (tensors.biases !== undefined) {
      throw new UnsupportedOpError(
        `cannot train the experts of layer ${tensors.layer}: they have biases, must have none`,
      );
    }
    const take = (part: ExpertPart) => this.#take(tensors[part], this.storage);
    const gate = await take("gate");
    const up = await take("up");
    const experts = new TrainedExperts(tensors, { gate, up, down: await take("down") });
    this.addExperts(experts);
    return experts;
  }

  parameterOf(weight: Weight): Parameter {
    return trainedOf(weight);
  }

  parametersOf(experts: Experts): ExpertParameters {
    return trainedExpertsOf(experts);
  }

  allocateGradients(
    parameters: readonly Parameter[],
    { moments }: { moments: 0 | 1 | 2 },
  ): void {
    for (const parameter of parameters) tensorsOf(parameter).allocate(moments);
  }

  createHalfBuffer(options: { rows: number; width: number }): HalfBuffer {
    return new ReferenceHalfBuffer(options);
  }

  recordTraining(build: (ops: TrainingOps) => void): Plan {
    const steps: (() => void)[] = [];
    build(new TrainingRecorder(steps, { storage: this.storage }));
    return new ReferencePlan(steps);
  }

  // deno-lint-ignore require-await -- a method of the seam: other backends do wait
  async readParameter(parameter: Parameter, slot: Slot): Promise<Float32Array> {
    return tensorsOf(parameter).slot(slot).slice();
  }

  writeParameter(parameter: Parameter, slot: Slot, values: Float32Array): void {
    const tensors = tensorsOf(parameter);
    const into = tensors.slot(slot);
    if (values.length !== into.length) {
      throw new RangeError(
        `cannot write ${
          parameter.names[0]
        }: the values are ${values.length}, must be ${into.length}`,
      );
    }
    into.set(values);
    if (slot === "value") tensors.store();
  }

  trainingBytes(): number {
    return [...this.#tensors].reduce((sum, { trainingBytes }) => sum + trainingBytes, 0);
  }

  bytesOf(buffer: Buffer | HalfBuffer): number {
    return buffer.rows * buffer.width * ("kind" in buffer ? 4 : 2);
  }

  /** Takes tensors of one shape, one after the other. */
  async #take(list: readonly TensorData[], storage: Storage): Promise<TrainedTensors> {
    const [{ name, rows, cols }] = list;
    const each = rows * cols;
    const values = this.allocate("weights", { length: list.length * each, purpose: name });
    for (const [i, tensor] of list.entries()) {
      await readValues(tensor, values.subarray(i * each, (i + 1) * each));
    }
    const names = list.map((tensor) => tensor.name);
    const tensors = new TrainedTensors({ names, rows, cols }, { values, storage });
    this.#tensors.add(tensors);
    return tensors;
  }
}
