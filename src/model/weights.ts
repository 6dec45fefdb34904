/**
 * The weights a model asks for, held against those a file has, then uploaded. The comparison comes
 * first and is complete, so that a wrong file is refused before any memory is spent on it.
 */

import type {
  Backend,
  Experts,
  ExpertTensors,
  TensorData,
  UploadOptions,
  Weight,
} from "../backend/backend.ts";
import type { LoadProgress } from "../engine/types.ts";
import { FormatError } from "../errors.ts";
import { requireTensor } from "../formats/checkpoint_source.ts";
import type { OtherTensorInfo, TensorInfo, TensorSource } from "../formats/tensor_source.ts";
import { float8Tensor, SCALE_SUFFIX, scaleShape } from "./float8.ts";
import {
  isHarmlessExtra,
  type NameOverrides,
  tensorName,
  type WeightPlace,
  type WeightRole,
} from "./names.ts";
import { type Quantization, readQuantization } from "./quantization.ts";
import { fileTensor } from "./tensor_data.ts";

/** One weight a model needs. */
export interface WeightSpec extends WeightPlace {
  readonly role: WeightRole;
  /** Outermost extent first; the last one is the length of a row. */
  readonly shape: readonly number[];
  /** Bytes that the model unpacks by itself, in place of numbers. */
  readonly packed?: boolean;
}

export interface MatchOptions {
  readonly specs: readonly WeightSpec[];
  readonly names?: NameOverrides;
  /** Whether a tensor that nobody asks for is known to be of no use. */
  readonly ignored: (name: string) => boolean;
}

type StoredTensor = TensorInfo | OtherTensorInfo;

/** A spec's tensor, and its factors where it is FP8. */
interface Match {
  readonly tensor: StoredTensor;
  readonly scales?: StoredTensor;
}

/**
 * Finds each weight's tensor. Throws FormatError for one that is missing or misshapen, and for
 * tensors that nobody asked for, except the ignored and the known harmless ones;
 * UnsupportedOpError for one whose elements cannot be weights.
 */
export function matchWeights(
  source: TensorSource,
  options: MatchOptions & { quantization: Quantization },
): Match[] {
  const action = `load the weights of "${source.name}"`;
  const { specs, ignored, quantization } = options;
  const names = specs.map((spec) => nameOf(spec, { source, names: options.names }));
  const isThere = (name: string) => source.tensors.has(name) || source.otherTensors.has(name);
  const missing = names.findIndex((name) => !isThere(name));
  if (missing >= 0) {
    const count = names.filter((name) => !isThere(name)).length;
    throw FormatError.of(
      action,
      `tensor "${names[missing]}"`,
      `missing${others(count)}`,
      `there, with shape [${specs[missing].shape.join(", ")}]`,
    );
  }
  const wanted = new Set(names);
  const matches = specs.map((spec, i) => {
    const match = matchOne(source, { spec, name: names[i], quantization });
    if (match.scales !== undefined) wanted.add(match.scales.name);
    return match;
  });
  const present = [...source.tensors.keys(), ...source.otherTensors.keys()];
  const extra = present.filter((name) =>
    !wanted.has(name) && !ignored(name) && !isHarmlessExtra(name)
  );
  if (extra.length > 0) {
    throw FormatError.of(
      action,
      `tensor "${extra[0].slice(0, 120)}"`,
      `unknown${others(extra.length)}`,
      "one that this architecture and configuration use",
    );
  }
  for (const [i, { tensor, scales }] of matches.entries()) {
    checkShape(action, tensor, specs[i].shape);
    if (scales !== undefined && quantization.method === "fp8") {
      checkShape(action, scales, scaleShape(specs[i].shape, quantization.tile));
    }
  }
  return matches;
}

function matchOne(
  source: TensorSource,
  options: { spec: WeightSpec; name: string; quantization: Quantization },
): Match {
  const { spec, name, quantization } = options;
  const other = source.otherTensors.get(name);
  if (other !== undefined && spec.packed && other.dtype === "U8") return { tensor: other };
  const float8 = other?.dtype === "F8_E4M3" && quantization.method === "fp8";
  if (other !== undefined && float8 && spec.shape.length === 2) {
    return { tensor: other, scales: requireTensor(source, name + SCALE_SUFFIX) };
  }
  const tensor = requireTensor(source, name);
  if (!spec.packed) return { tensor };
  throw FormatError.of(
    `load the weights of "${source.name}"`,
    `the type of tensor "${name}"`,
    tensor.type,
    "U8",
  );
}

function checkShape(action: string, tensor: StoredTensor, shape: readonly number[]): void {
  if (tensor.shape.join() === shape.join()) return;
  throw FormatError.of(
    action,
    `the shape of tensor "${tensor.name}"`,
    `[${tensor.shape.join(", ")}]`,
    `[${shape.join(", ")}] by the configuration`,
  );
}

/** A checkpoint's tensors, matched with what a model asks for. */
export class StoredWeights {
  readonly #source: TensorSource;
  readonly #names: NameOverrides | undefined;
  readonly #matches = new Map<string, Match>();
  readonly #quantization: Quantization;
  readonly #progress: Progress;

  /** Matches all of `specs`, as `matchWeights`; reads nothing. */
  constructor(source: TensorSource, options: MatchOptions & { onProgress?: LoadProgress }) {
    this.#source = source;
    this.#names = options.names;
    this.#quantization = readQuantization(source);
    const matches = matchWeights(source, { ...options, quantization: this.#quantization });
    for (const match of matches) this.#matches.set(match.tensor.name, match);
    const tensors = matches.flatMap(({ tensor, scales }) => scales ? [tensor, scales] : [tensor]);
    this.#progress = new Progress(tensors, options.onProgress);
  }

  has(role: WeightRole, place: WeightPlace = {}): boolean {
    return this.#find(role, place) !== undefined;
  }

  /** The tensor as the file has it, FP8 with its factors. */
  tensor(role: WeightRole, place: WeightPlace = {}): TensorData {
    const match = this.#find(role, place);
    if (match === undefined) throw new Error(`weight ${role} was never asked for`);
    const { tensor, scales } = match;
    if (scales === undefined) return this.#stored(tensor);
    if (this.#quantization.method !== "fp8") throw new Error(`${tensor.name} has factors`);
    const { rows, cols, read } = this.#stored(tensor);
    return float8Tensor({ name: tensor.name, rows, cols }, {
      bytes: read,
      scales: this.#stored(scales),
      tile: this.#quantization.tile,
    });
  }

  /** Reports that everything is in, what a backend pages in later included. */
  finish(): void {
    this.#progress.finish();
  }

  #find(role: WeightRole, place: WeightPlace): Match | undefined {
    const name = nameOf({ role, ...place }, { source: this.#source, names: this.#names });
    return this.#matches.get(name);
  }

  #stored(tensor: StoredTensor): TensorData {
    return fileTensor(this.#source, {
      tensor,
      // Packed bytes are only read, never uploaded as they are; any type does.
      type: "type" in tensor ? tensor.type : "F32",
      onRead: (bytes) => this.#progress.read(tensor.name, bytes),
    });
  }
}

/** A checkpoint's matched tensors on their way to a backend, in whatever form a model needs them. */
export class WeightLoader extends StoredWeights {
  readonly backend: Backend;
  #parameters = 0;
  #idle = 0;

  constructor(
    source: TensorSource,
    options: MatchOptions & { backend: Backend; onProgress?: LoadProgress },
  ) {
    super(source, options);
    this.backend = options.backend;
  }

  /** Values in all weights uploaded so far; a tied embedding counts once. */
  get parameters(): number {
    return this.#parameters;
  }

  /** Those of them that a token reads: of the routed experts only the chosen ones. */
  get activeParameters(): number {
    return this.#parameters - this.#idle;
  }

  async upload(
    role: WeightRole,
    place: WeightPlace = {},
    options?: UploadOptions,
  ): Promise<Weight> {
    return await this.uploadTensor(this.tensor(role, place), options);
  }

  /** The weight, where the model asked for one. */
  async uploadIfThere(role: WeightRole, place: WeightPlace = {}): Promise<Weight | undefined> {
    return this.has(role, place) ? await this.upload(role, place) : undefined;
  }

  async uploadTensor(tensor: TensorData, options?: UploadOptions): Promise<Weight> {
    this.#parameters += tensor.rows * tensor.cols;
    return await this.backend.upload(tensor, options);
  }

  /** Uploads a layer's routed experts, of which a token reads `topK`. */
  async uploadExperts(tensors: ExpertTensors, { topK }: { topK: number }): Promise<Experts> {
    const { gate, up, down, biases } = tensors;
    const all = [gate, up, down, ...(biases ? [biases.gate, biases.up, biases.down] : [])].flat();
    const values = all.reduce((sum, { rows, cols }) => sum + rows * cols, 0);
    this.#parameters += values;
    this.#idle += values / gate.length * (gate.length - topK);
    return await this.backend.uploadExperts(tensors);
  }
}

/** Bytes read of all tensors; a tensor that is read twice counts once. */
class Progress {
  readonly #left: Map<string, number>;
  readonly #total: number;
  readonly #onProgress: LoadProgress | undefined;
  #loaded = 0;

  constructor(tensors: readonly StoredTensor[], onProgress: LoadProgress | undefined) {
    this.#left = new Map(tensors.map(({ name, byteLength }) => [name, byteLength]));
    this.#total = [...this.#left.values()].reduce((sum, bytes) => sum + bytes, 0);
    this.#onProgress = onProgress;
    this.#report();
  }

  read(name: string, bytes: number): void {
    const left = this.#left.get(name) ?? 0;
    const counted = Math.min(left, bytes);
    this.#left.set(name, left - counted);
    this.#loaded += counted;
    this.#report();
  }

  finish(): void {
    this.#loaded = this.#total;
    this.#left.clear();
    this.#report();
  }

  #report(): void {
    this.#onProgress?.({ loadedBytes: this.#loaded, totalBytes: this.#total });
  }
}

function nameOf(
  { role, layer, expert }: WeightPlace & { role: WeightRole },
  { source, names }: { source: TensorSource; names: NameOverrides | undefined },
): string {
  const place = { ...(layer !== undefined && { layer }), ...(expert !== undefined && { expert }) };
  return tensorName(role, { format: source.format, ...place, ...(names && { names }) });
}

function others(count: number): string {
  if (count === 1) return "";
  return count === 2 ? " (and one other)" : ` (and ${count - 1} others)`;
}
