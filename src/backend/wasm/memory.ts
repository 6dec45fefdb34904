/** What the wasm backend's handles hold besides what the seam promises: addresses. */

import type { Buffer, KvCache, Weight } from "../backend.ts";

export interface WasmBuffer extends Buffer {
  readonly address: number;
}

export interface WasmWeight extends Weight {
  /** GGUF number of the packed type. */
  readonly kind: number;
  /** Address of the kernels' description of the matrix; 0 for vectors. */
  readonly descriptor: number;
  /** Address of a vector's float32 values; 0 for matrices. */
  readonly vector: number;
}

export interface WasmKvCache extends KvCache {
  readonly address: number;
  readonly layerBytes: number;
}
