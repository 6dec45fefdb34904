/**
 * A backend that computes nothing and holds nothing: it counts what a model would take. Loading a
 * checkpoint onto it runs every check that loading runs, without reading the weights.
 */

import type {
  Backend,
  BackendMemory,
  Buffer,
  Experts,
  ExpertTensors,
  ExpertTraffic,
  KvCache,
  KvCacheOptions,
  LatentCache,
  LatentCacheOptions,
  Plan,
  TensorData,
  Weight,
} from "./backend.ts";
import { kvPageLayout, latentPageLayout, layerPageBytes, type PageLayout } from "./kv_layout.ts";
import { UnsupportedOpError } from "../errors.ts";
import { rowBytes } from "../quant/types.ts";

const FLOAT_BYTES = 4;

export class MeasuringBackend implements Backend {
  readonly name = "measuring";
  readonly threads = 1;
  readonly activations = "f32";
  readonly chooses = false;
  readonly numerics = "none";
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

  replaceExpert(): Promise<void> {
    return Promise.reject(this.#refusal("replace an expert"));
  }

  createBuffer(options: { kind: "f32" | "i32"; rows: number; width: number }): Buffer {
    this.#workspace += options.rows * options.width * FLOAT_BYTES;
    return { ...options };
  }

  createKvCache(options: KvCacheOptions): KvCache {
    const byteLength = this.#cacheBytes(options, kvPageLayout(options));
    return { ...options, byteLength };
  }

  createLatentCache(options: LatentCacheOptions): LatentCache {
    const byteLength = this.#cacheBytes(options, latentPageLayout(options));
    return { ...options, byteLength };
  }

  pageBytes(): number {
    throw this.#refusal("copy a page");
  }

  readPage(): Promise<Uint8Array<ArrayBuffer>> {
    return Promise.reject(this.#refusal("copy a page"));
  }

  writePage(): void {
    throw this.#refusal("copy a page");
  }

  copyPage(): void {
    throw this.#refusal("copy a page");
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

  #cacheBytes({ layers, pages }: { layers: number; pages: number }, layout: PageLayout): number {
    const bytes = layers * pages * layerPageBytes(layout);
    this.#kv += bytes;
    return bytes;
  }

  #refusal(what: string): UnsupportedOpError {
    return new UnsupportedOpError(`cannot ${what}: the measuring backend only counts memory`);
  }
}
