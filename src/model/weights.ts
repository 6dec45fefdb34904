/**
 * The weights a model asks for, held against those a file has, then uploaded. The comparison comes
 * first and is complete, so that a wrong file is refused before any memory is spent on it.
 */

import type { Backend, TensorData, Weight } from "../backend/backend.ts";
import type { LoadProgress } from "../engine/types.ts";
import { FormatError } from "../errors.ts";
import { requireTensor } from "../formats/checkpoint_source.ts";
import type { TensorInfo, TensorSource } from "../formats/tensor_source.ts";
import { isHarmlessExtra, tensorName, type WeightRole } from "./names.ts";

/** One weight a model needs. */
export interface WeightSpec {
  readonly role: WeightRole;
  /** Undefined for weights outside the layers. */
  readonly layer?: number;
  /** `[rows, cols]` of a matrix, `[width]` of a vector. */
  readonly shape: readonly number[];
}

/** A model's weights on a backend, by role and layer. */
export class LoadedWeights {
  readonly #weights: ReadonlyMap<string, Weight>;
  /** Number of values in all of them; a tied embedding counts once. */
  readonly parameters: number;

  constructor(weights: ReadonlyMap<string, Weight>, parameters: number) {
    this.#weights = weights;
    this.parameters = parameters;
  }

  find(role: WeightRole, layer?: number): Weight | undefined {
    return this.#weights.get(keyOf(role, layer));
  }

  get(role: WeightRole, layer?: number): Weight {
    const weight = this.find(role, layer);
    if (weight === undefined) throw new Error(`weight ${keyOf(role, layer)} was never asked for`);
    return weight;
  }
}

/**
 * Finds each weight's tensor. Throws FormatError for one that is missing or misshapen, and for
 * tensors that nobody asked for, except those in `ignored` and the known harmless ones;
 * UnsupportedOpError for one whose elements cannot be weights.
 */
export function matchWeights(
  source: TensorSource,
  options: { specs: readonly WeightSpec[]; ignored: readonly string[] },
): TensorInfo[] {
  const action = `load the weights of "${source.name}"`;
  const format = source.format;
  const names = options.specs.map(({ role, layer }) => tensorName(role, { format, layer }));
  const missing = names.filter((name) => !source.tensors.has(name));
  if (missing.length > 0) {
    if (source.otherTensors.has(missing[0])) requireTensor(source, missing[0]);
    const spec = options.specs[names.indexOf(missing[0])];
    throw FormatError.of(
      action,
      `tensor "${missing[0]}"`,
      `missing${others(missing.length)}`,
      `there, with shape [${spec.shape.join(", ")}]`,
    );
  }
  const wanted = new Set([...names, ...options.ignored]);
  const present = [...source.tensors.keys(), ...source.otherTensors.keys()];
  const extra = present.filter((name) => !wanted.has(name) && !isHarmlessExtra(name));
  if (extra.length > 0) {
    throw FormatError.of(
      action,
      `tensor "${extra[0].slice(0, 120)}"`,
      `unknown${others(extra.length)}`,
      "one that this architecture and configuration use",
    );
  }
  return options.specs.map((spec, i) => {
    const tensor = source.tensors.get(names[i]) as TensorInfo;
    if (tensor.shape.join() !== spec.shape.join()) {
      throw FormatError.of(
        action,
        `the shape of tensor "${names[i]}"`,
        `[${tensor.shape.join(", ")}]`,
        `[${spec.shape.join(", ")}] by the configuration`,
      );
    }
    return tensor;
  });
}

/** Uploads the weights in the order of `specs`, telling `onProgress` how many bytes are in. */
export async function loadWeights(
  source: TensorSource,
  options: {
    specs: readonly WeightSpec[];
    ignored: readonly string[];
    backend: Backend;
    onProgress?: LoadProgress;
  },
): Promise<LoadedWeights> {
  const { specs, backend, onProgress } = options;
  const tensors = matchWeights(source, options);
  const totalBytes = tensors.reduce((sum, tensor) => sum + tensor.byteLength, 0);
  const weights = new Map<string, Weight>();
  let loadedBytes = 0;
  let parameters = 0;
  onProgress?.({ loadedBytes, totalBytes });
  for (const [i, tensor] of tensors.entries()) {
    const before = loadedBytes;
    const data = tensorData(source, tensor, (bytes) => {
      // A backend may read a range twice; progress never exceeds the tensor.
      loadedBytes = Math.min(loadedBytes + bytes, before + tensor.byteLength);
      onProgress?.({ loadedBytes, totalBytes });
    });
    weights.set(keyOf(specs[i].role, specs[i].layer), await backend.upload(data));
    loadedBytes = before + tensor.byteLength;
    parameters += data.rows * data.cols;
  }
  onProgress?.({ loadedBytes, totalBytes });
  return new LoadedWeights(weights, parameters);
}

function tensorData(
  source: TensorSource,
  tensor: TensorInfo,
  onRead: (bytes: number) => void,
): TensorData {
  const cols = tensor.shape[tensor.shape.length - 1];
  return {
    name: tensor.name,
    type: tensor.type,
    rows: tensor.shape.slice(0, -1).reduce((product, extent) => product * extent, 1),
    cols,
    async read(offset, into) {
      await source.read(tensor, offset, into);
      onRead(into.length);
    },
  };
}

function keyOf(role: WeightRole, layer?: number): string {
  return layer === undefined ? role : `${role}.${layer}`;
}

function others(count: number): string {
  if (count === 1) return "";
  return count === 2 ? " (and one other)" : ` (and ${count - 1} others)`;
}
