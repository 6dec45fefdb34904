/** Checkpoints whose tensors' bytes a test states. */

import type {
  MetadataValue,
  OtherTensorInfo,
  TensorInfo,
  TensorSource,
} from "../../src/formats/tensor_source.ts";
import type { TensorType } from "../../src/quant/types.ts";

export interface MemoryTensor {
  /** A weight type, or, for what alone is none, `dtype`. */
  readonly type?: TensorType;
  readonly dtype?: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** A source over bytes in memory. */
export function memorySource(
  parts: {
    format: TensorSource["format"];
    metadata: Record<string, MetadataValue>;
    tensors: Readonly<Record<string, MemoryTensor>>;
  },
): TensorSource {
  const weights = new Map<string, TensorInfo>();
  const others = new Map<string, OtherTensorInfo>();
  for (const [name, { type, dtype = "", shape, bytes }] of Object.entries(parts.tensors)) {
    const info = { name, shape, byteLength: bytes.length };
    if (type === undefined) others.set(name, { ...info, dtype });
    else weights.set(name, { ...info, type });
  }
  return {
    format: parts.format,
    name: "made",
    byteLength: Object.values(parts.tensors).reduce((sum, { bytes }) => sum + bytes.length, 0),
    tensors: weights,
    otherTensors: others,
    metadata: new Map(Object.entries(parts.metadata)),
    sidecar: () => Promise.resolve(null),
    read({ name }, offset, into) {
      into.set(parts.tensors[name].bytes.subarray(offset, offset + into.length));
      return Promise.resolve();
    },
    close() {},
  };
}

/** Numbers in (-1, 1), the same at every call with this seed. */
export function noise(count: number, seed: number): Float32Array {
  let state = seed * 2654435761 >>> 0;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

/** Little-endian bfloat16, cut off. */
export function bf16Bytes(values: Float32Array): Uint8Array {
  const bits = new Uint32Array(values.slice().buffer);
  const out = new Uint8Array(values.length * 2);
  bits.forEach((word, i) => {
    out[2 * i] = word >>> 16;
    out[2 * i + 1] = word >>> 24;
  });
  return out;
}

/** Little-endian float32. */
export function f32Bytes(values: Float32Array): Uint8Array {
  return new Uint8Array(values.slice().buffer);
}
