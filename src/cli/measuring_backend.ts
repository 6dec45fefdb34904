/**
 * A backend that computes nothing and holds nothing: it counts what a model would take. Loading a
 * checkpoint onto it runs every check that loading runs, without reading the weights.
 */

import {
  type Backend,
  type BackendMemory,
  type Buffer,
  type Experts,
  type ExpertTensors,
  type ExpertTraffic,
  type KvCache,
  type KvCacheOptions,
  type LatentCache,
  type LatentCacheOptions,
  PAGE_TOKENS,
  type Plan,
  type TensorData,
  type Weight,
} from "../backend/backend.ts";
import { UnsupportedOpError } from "../errors.ts";
import { rowBytes } from "../quant/types.ts";

const FLOAT_BYTES = 4;

export class MeasuringBackend implements Backend {
  readonly name = "measuring";
  readonly threads = 1;
  readonly activations = "f32";
  readonly conversions: readonly string[] = [];
  #weights = 0;
  #kv = 0;
  #workspace = 0;

  upload({ name, type, rows, cols }: TensorData): Promise<Weight> {
    const byteLength = rows * rowBytes(type, cols);
    this.#weights += byteLength;
    return Promise.resolve({ name, type, rows, cols, byteLength });
  }

  uploadExperts({ layer, gate, up, down, biases }: ExpertTensors): Promise<Experts> {
    const tensors = [gate, up, down, ...(biases ? Object.values(biases) : [])].flat();
    const byteLength = tensors.reduce(
      (sum, { type, rows, cols }) => sum + rows * rowBytes(type, cols),
      0,
    );
    this.#weights += byteLength;
    const [{ rows: intermediate, cols: hidden }] = gate;
    return Promise.resolve({ layer, count: gate.length, hidden, intermediate, byteLength });
  }

  createBuffer(options: { kind: "f32" | "i32"; rows: number; width: number }): Buffer {
    this.#workspace += options.rows * options.width * FLOAT_BYTES;
    return { ...options };
  }

  createKvCache(options: KvCacheOptions): KvCache {
    const { layers, pages, kvHeads, keyDim, valueDim } = options;
    const values = layers * pages * PAGE_TOKENS * kvHeads * (keyDim + valueDim);
    this.#kv += values * FLOAT_BYTES;
    return { ...options, byteLength: values * FLOAT_BYTES };
  }

  createLatentCache(options: LatentCacheOptions): LatentCache {
    const { layers, pages, latentDim, ropeDim } = options;
    const values = layers * pages * PAGE_TOKENS * (latentDim + ropeDim);
    this.#kv += values * FLOAT_BYTES;
    return { ...options, byteLength: values * FLOAT_BYTES };
  }

  memory(): BackendMemory {
    return { weights: this.#weights, kv: this.#kv, workspace: this.#workspace };
  }

  write(): void {
    throw this.#refusal("write");
  }

  record(): Plan {
    throw this.#refusal("record");
  }

  submit(): void {
    throw this.#refusal("submit");
  }

  read(): Promise<Float32Array> {
    return Promise.reject(this.#refusal("read"));
  }

  readIntegers(): Promise<Int32Array> {
    return Promise.reject(this.#refusal("read"));
  }

  expertTraffic(): readonly ExpertTraffic[] {
    return [];
  }

  close(): void {}

  #refusal(what: string): UnsupportedOpError {
    return new UnsupportedOpError(`cannot ${what}: the measuring backend only counts memory`);
  }
}
