/** What the conformance tests share: opening, filling, comparing. */

import { assertEquals } from "@std/assert";
import type { Backend, Buffer, Weight } from "../../src/backend/backend.ts";

export interface Conformance {
  /**
   * Compiling a kernel takes the backend seconds: of types with shapes and of shapes with batches, each
   * is tried with some of the others instead of all.
   */
  readonly sparse?: boolean;
  /** For the tests' names: "wasm q8, 2 threads". */
  readonly name: string;
  /** Opens a fresh backend; the suite closes it. */
  open(): Promise<Backend>;
  /** The same backend with another number of threads, which must give the same bits. */
  readonly openTwin?: () => Promise<Backend>;
  /** Whether it multiplies F16 weights in half precision where activations have 8 bits. */
  readonly halves?: boolean;
}

/** Those of a list whose index is among some remainders, or all where the suite isn't sparse. */
export function sampled<T>(
  list: readonly T[],
  { sparse = false }: Conformance,
  isTried: (index: number) => boolean,
): [index: number, item: T][] {
  return [...list.entries()].filter(([index]) => !sparse || isTried(index));
}

/** Runs a test body on a backend that is closed whatever happens. */
export async function withBackend(
  open: () => Promise<Backend>,
  body: (backend: Backend) => Promise<void>,
): Promise<void> {
  const backend = await open();
  try {
    await body(backend);
  } finally {
    backend.close();
  }
}

/** A buffer that holds these rows. */
export function filled(backend: Backend, width: number, data: Float32Array | Int32Array): Buffer {
  const kind = data instanceof Float32Array ? "f32" : "i32";
  const buffer = backend.createBuffer({ kind, rows: data.length / width, width });
  backend.write(buffer, data);
  return buffer;
}

/** Uploads a vector of float32 numbers. */
export function uploadVector(backend: Backend, values: Float32Array): Promise<Weight> {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return backend.upload({
    name: "vector",
    type: "F32",
    rows: 1,
    cols: values.length,
    read(offset, into) {
      into.set(bytes.subarray(offset, offset + into.length));
      return Promise.resolve();
    },
  });
}

/** Equality of float32 values as bits: 0 and -0 differ. */
export function assertSameBits(actual: Float32Array, expected: Float32Array, what: string): void {
  assertEquals(actual.length, expected.length, what);
  const bits = (values: Float32Array) =>
    new Int32Array(values.buffer, values.byteOffset, values.length);
  const [a, b] = [bits(actual), bits(expected)];
  const differing = a.findIndex((value, i) => value !== b[i]);
  if (differing >= 0) {
    throw new Error(
      `${what}: value ${differing} is ${actual[differing]}, must have the bits of ${
        expected[differing]
      }`,
    );
  }
}
