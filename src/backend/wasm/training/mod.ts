/**
 * The CPU backend with what training adds, in float32: the forward pass is the server's kernels, over
 * matrices that each update packs anew. All of it lies in one memory of 4 GiB at most.
 */

import { FormatError, OptionError, UnsupportedOpError } from "../../../errors.ts";
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
import { checkExpertTensors } from "../../expert_tensors.ts";
import { foreign } from "../../op_checks.ts";
import type {
  ExpertParameters,
  HalfBuffer,
  Parameter,
  Slot,
  TrainingBackend,
  TrainingOps,
} from "../../training.ts";
import { EXPERT_BYTES } from "../expert_table.ts";
import { startWasmBackend, WasmBackend, type WasmBackendOptions } from "../mod.ts";
import type { WasmExperts, WasmWeight } from "../memory.ts";
import { type ExpertPart, expertsOf, type WasmTrainedExperts } from "./experts.ts";
import { noHalves } from "./forward_recorder.ts";
import { parameterOf, WasmParameter } from "./parameters.ts";
import { TrainingRecorder } from "./recorder.ts";

export type WasmTrainingOptions = Omit<WasmBackendOptions, "activations" | "paging">;

/** As `createWasmBackend`; activations are float32. */
export async function createWasmTrainingBackend(
  options: WasmTrainingOptions,
): Promise<TrainingBackend> {
  const { banks = 1 } = options;
  if (banks !== 1) {
    throw new OptionError(`cannot train on the wasm backend: the banks are ${banks}, must be 1`);
  }
  return await startWasmBackend(
    { ...options, activations: "f32" },
    (parts) => new WasmTrainingBackend(parts),
  );
}

/** File bytes read at a time. */
const CHUNK_BYTES = 4 * 1024 * 1024;
/** Words of a matrix's description: kind, rows, columns, address. */
const DATA_WORD = 3;
const MATRIX_BYTES = 16;

class WasmTrainingBackend extends WasmBackend implements TrainingBackend {
  readonly storage = "f32";
  readonly #parameters = new Map<Weight, WasmParameter>();
  readonly #all: WasmParameter[] = [];

  override async upload(tensor: TensorData, options?: UploadOptions): Promise<Weight> {
    if (tensor.rows === 1) {
      const vector = await super.upload(tensor, options) as WasmWeight;
      this.#keep(vector, { tensor, master: vector.vector!.in(this.first), packed: [] });
      return vector;
    }
    const { master, views } = await this.#takeMasters([tensor]);
    const weight = await super.upload(views[0], { ...options, exact: true }) as WasmWeight;
    this.#keep(weight, { tensor, master, packed: [this.#word(weight.descriptor, DATA_WORD)] });
    return weight;
  }

  override async uploadExperts(tensors: ExpertTensors): Promise<WasmExperts> {
    checkExpertTensors(tensors);
    const { layer, gate, up, down, biases } = tensors;
    if (biases !== undefined) {
      throw new UnsupportedOpError(
        `cannot train the experts of layer ${layer}: they have biases, must have none`,
      );
    }
    const masters = {
      gate: await this.#takeMasters(gate),
      up: await this.#takeMasters(up),
      down: await this.#takeMasters(down),
    };
    const experts = await super.uploadExperts({
      ...{ layer, gate: masters.gate.views, up: masters.up.views, down: masters.down.views },
    });
    const [{ address }] = experts.tables;
    const parameter = (part: ExpertPart, index: number) => {
      const list = tensors[part];
      const packed = list.map((_, e) =>
        this.#word(address + e * EXPERT_BYTES + index * MATRIX_BYTES, DATA_WORD)
      );
      const { rows, cols } = list[0];
      const names = list.map(({ name }) => name);
      const place = { bank: this.first, master: masters[part].master, packed };
      const made = new WasmParameter({ names, rows, cols }, place);
      this.#all.push(made);
      return made;
    };
    const trained: WasmTrainedExperts = {
      ...experts,
      parameters: {
        gate: parameter("gate", 0),
        up: parameter("up", 1),
        down: parameter("down", 2),
      },
    };
    return trained;
  }

  parameterOf(weight: Weight): WasmParameter {
    const parameter = this.#parameters.get(weight);
    if (parameter === undefined) throw foreign("weight");
    return parameter;
  }

  parametersOf(experts: Experts): ExpertParameters {
    return expertsOf(experts).parameters;
  }

  allocateGradients(
    parameters: readonly Parameter[],
    { moments }: { moments: 0 | 1 | 2 },
  ): void {
    for (const parameter of parameters) parameterOf(parameter).allocate(moments);
  }

  createHalfBuffer(): HalfBuffer {
    throw noHalves();
  }

  recordTraining(build: (ops: TrainingOps) => void): Plan {
    const options = {
      ...this.recorderOptions(),
      parameterOf: (weight: Weight) => this.parameterOf(weight),
    };
    return this.recordBy(new TrainingRecorder(options), build);
  }

  // deno-lint-ignore require-await -- a method of the seam: other backends do wait
  async readParameter(parameter: Parameter, slot: Slot): Promise<Float32Array> {
    return parameterOf(parameter).values(slot).slice();
  }

  writeParameter(of: Parameter, slot: Slot, values: Float32Array): void {
    const parameter = parameterOf(of);
    if (values.length !== parameter.length) {
      throw new RangeError(
        `cannot write ${of.names[0]}: the values are ${values.length}, must be ${parameter.length}`,
      );
    }
    parameter.values(slot).set(values);
    if (slot === "value") parameter.pack();
  }

  trainingBytes(): number {
    return this.#all.reduce((sum, { trainingBytes }) => sum + trainingBytes, 0);
  }

  bytesOf({ rows, width }: Buffer | HalfBuffer): number {
    return rows * width * 4;
  }

  #keep(
    weight: Weight,
    { tensor, master, packed }: { tensor: TensorData; master: number; packed: readonly number[] },
  ): void {
    const { name, rows, cols } = tensor;
    const place = { bank: this.first, master, packed };
    const parameter = new WasmParameter({ names: [name], rows, cols }, place);
    this.#parameters.set(weight, parameter);
    this.#all.push(parameter);
  }

  /** Takes tensors of one shape as float32 rows, and gives them as tensors that lie there. */
  async #takeMasters(
    tensors: readonly TensorData[],
  ): Promise<{ master: number; views: TensorData[] }> {
    const bank = this.first;
    const [{ name, rows, cols }] = tensors;
    const bytes = rows * cols * 4;
    const master = bank.arena.allocate(tensors.length * bytes, name);
    for (const [i, tensor] of tensors.entries()) {
      await readRows(tensor, (row, values) => {
        const at = master + i * bytes + row * cols * 4;
        new Float32Array(bank.memory.buffer, at, values.length).set(values);
      });
    }
    const views = tensors.map((tensor, i): TensorData => ({
      ...{ name: tensor.name, type: "F32", rows, cols },
      read(offset, into) {
        const from = master + i * bytes + offset;
        into.set(new Uint8Array(bank.memory.buffer, from, into.length));
        return Promise.resolve();
      },
    }));
    return { master, views };
  }

  #word(address: number, index: number): number {
    return new Uint32Array(this.first.memory.buffer, address, index + 1)[index];
  }
}

/** Dequantises a tensor a few megabytes at a time; throws FormatError for what is not finite. */
async function readRows(
  tensor: TensorData,
  take: (row: number, values: Float32Array) => void,
): Promise<void> {
  const { name, type, rows, cols } = tensor;
  const bytesPerRow = rowBytes(type, cols);
  const rowsPerChunk = Math.max(1, Math.floor(CHUNK_BYTES / bytesPerRow));
  for (let row = 0; row < rows; row += rowsPerChunk) {
    const count = Math.min(rowsPerChunk, rows - row);
    const bytes = new Uint8Array(count * bytesPerRow);
    await tensor.read(row * bytesPerRow, bytes);
    const values = new Float32Array(count * cols);
    dequantize(type, bytes, values);
    if (!values.every(Number.isFinite)) {
      throw FormatError.of(`load ${name}`, "one of its values", "NaN or infinite", "finite");
    }
    take(row, values);
  }
}
