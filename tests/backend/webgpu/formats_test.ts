/**
 * Every weight format on the device: what a table's rows are after packing and decoding, against
 * `src/quant/dequantize.ts`. All have the same numbers but Q4_1 and Q4_K, which round twice.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Backend, TensorData } from "../../../src/backend/backend.ts";
import { createWebGpuBackend } from "../../../src/backend/webgpu/mod.ts";
import { FormatError } from "../../../src/errors.ts";
import { dequantize } from "../../../src/quant/dequantize.ts";
import { rowBytes, TENSOR_TYPES, type TensorType } from "../../../src/quant/types.ts";
import { filled, withBackend } from "../_harness.ts";
import { UNIT_ROUNDOFF } from "../_tolerance.ts";
import { GPU_SKIPPED, SKIP_NOTE } from "../../support/gpu.ts";
import { blocks, HALVES, makeFinite, tensorOf } from "./_blocks.ts";

const TYPES = (Object.keys(TENSOR_TYPES) as TensorType[]).filter((type) =>
  TENSOR_TYPES[type].kernel !== null
);

/** Float32 numbers that GPUs may take for zero. */
const SMALLEST_NORMAL = 2 ** -126;

/** Rows of a table as the device decodes them. */
async function decoded(
  backend: Backend,
  tensor: TensorData,
  ids = Int32Array.from({ length: tensor.rows }, (_, row) => row),
): Promise<Float32Array> {
  const table = await backend.upload(tensor);
  const [rows, input] = [ids.length, filled(backend, 1, ids)];
  const out = backend.createBuffer({ kind: "f32", rows, width: tensor.cols });
  backend.submit(backend.record((ops) => ops.embed({ table, ids: input, out, rows })));
  return await backend.read(out);
}

function valuesOf(type: TensorType, bytes: Uint8Array): Float32Array {
  const { blockValues, blockBytes } = TENSOR_TYPES[type];
  const values = new Float32Array(bytes.length / blockBytes * blockValues);
  dequantize(type, bytes, values);
  return values;
}

/** Where the nibbles of a block begin whose values are `scale * (16 + n) + (minimum - 16 * scale)`. */
const NIBBLES: Partial<Record<TensorType, number>> = { Q4_1: 4, Q4_K: 16 };

/** The values of blocks whose half at `offset` is zero, and each of whose nibbles is `nibble` if given. */
function variant(
  type: TensorType,
  { bytes, offset, nibble }: { bytes: Uint8Array; offset: number; nibble?: number },
): Float32Array {
  const { blockBytes } = TENSOR_TYPES[type];
  const copy = bytes.slice();
  for (let at = 0; at < copy.length; at += blockBytes) {
    copy.fill(0, at + offset, at + offset + 2);
    if (nibble !== undefined) copy.fill(17 * nibble, at + NIBBLES[type]!, at + blockBytes);
  }
  return valuesOf(type, copy);
}

/**
 * How far each value may be off. Scales and minima have at most 17 bits and numbers 5, so that products are
 * exact, and `scale * n + minimum` is rounded once, here as there. Nibbles round `minimum - 16 * scale`
 * before that: half a place of it, and once more half a place of what they give.
 */
function tolerances(type: TensorType, bytes: Uint8Array): (i: number) => number {
  if (NIBBLES[type] === undefined) return () => 0;
  const { scale, minimum } = HALVES[type]!;
  const scales = variant(type, { bytes, offset: minimum!, nibble: 1 });
  const minima = variant(type, { bytes, offset: scale });
  const values = valuesOf(type, bytes);
  // The second place is one of a number that is off by the first.
  const place = UNIT_ROUNDOFF * (1 + 2 ** -20);
  return (i) => place * (Math.abs(minima[i] - 16 * scales[i]) + 2 * Math.abs(values[i]));
}

function assertDecoded(
  actual: Float32Array,
  { type, bytes }: { type: TensorType; bytes: Uint8Array },
): void {
  const expected = valuesOf(type, bytes);
  const tolerance = tolerances(type, bytes);
  assertEquals(actual.length, expected.length);
  for (const [i, value] of expected.entries()) {
    if (Math.abs(value) < SMALLEST_NORMAL && actual[i] === 0) continue;
    const error = Math.abs(actual[i] - value);
    assert(error <= tolerance(i), `value ${i} is ${actual[i]}, must be ${value}`);
  }
}

/** Row lengths of a type: an even and an odd number of blocks, and such as end within one. */
function colsOf(type: TensorType): number[] {
  const { blockValues } = TENSOR_TYPES[type];
  if (blockValues === 1) return [64, 100, 7, 33];
  return blockValues === 32 ? [32, 160, 256] : [256, 768];
}

function onDevice(name: string, body: (backend: Backend, t: Deno.TestContext) => Promise<void>) {
  Deno.test({
    name: `webgpu formats: ${name}${SKIP_NOTE}`,
    ignore: GPU_SKIPPED !== undefined,
    fn: (t) => withBackend(() => createWebGpuBackend(), (backend) => body(backend, t)),
  });
}

onDevice("packed and decoded values are those of the file", async (backend, t) => {
  for (const [index, type] of TYPES.entries()) {
    await t.step(type, async () => {
      for (const cols of colsOf(type)) {
        const shape = { rows: 13, cols };
        const bytes = blocks(type, { ...shape, seed: 10 * index + cols });
        const actual = await decoded(backend, tensorOf(type, { ...shape, bytes }));
        assertDecoded(actual, { type, bytes });
      }
    });
  }
});

onDevice(
  "every number that is a half, a bfloat16 or an e4m3 float is exact",
  async (backend, t) => {
    for (const type of ["F16", "BF16"] as const) {
      await t.step(type, async () => {
        const bytes = new Uint8Array(Uint16Array.from({ length: 65_536 }, (_, i) => i).buffer);
        makeFinite(type, bytes);
        const actual = await decoded(backend, tensorOf(type, { rows: 64, cols: 1024, bytes }));
        assertDecoded(actual, { type, bytes });
      });
    }
    await t.step("F8_E4M3", async () => {
      const bytes = new Uint8Array(8 * 36);
      for (let block = 0; block < 8; block++) {
        new DataView(bytes.buffer).setFloat32(block * 36, 1, true);
        for (let i = 0; i < 32; i++) bytes[block * 36 + 4 + i] = 32 * block + i;
      }
      makeFinite("F8_E4M3", bytes);
      const actual = await decoded(backend, tensorOf("F8_E4M3", { rows: 2, cols: 128, bytes }));
      assertDecoded(actual, { type: "F8_E4M3", bytes });
    });
  },
);

onDevice("a table that is uploaded in several pieces is whole", async (backend, t) => {
  for (const type of ["F16", "Q8_0", "Q6_K"] as const) {
    await t.step(type, async () => {
      const [cols, rows] = [1024, Math.ceil(18 * 2 ** 20 / rowBytes(type, 1024))];
      const bytes = new Uint8Array(rows * rowBytes(type, cols));
      // Small enough for exponents of halves not to be full.
      for (let i = 0; i < bytes.length; i++) bytes[i] = Math.imul(i, 0x9e3779b1) >>> 13 & 0x3b;
      const ids = Int32Array.from({ length: 200 }, (_, i) => Math.floor(i * (rows - 1) / 199));
      const actual = await decoded(backend, tensorOf(type, { rows, cols, bytes }), ids);
      const rowLength = rowBytes(type, cols);
      for (const [i, id] of ids.entries()) {
        const row = bytes.subarray(id * rowLength, (id + 1) * rowLength);
        assertDecoded(actual.subarray(i * cols, (i + 1) * cols), { type, bytes: row });
      }
    });
  }
});

onDevice("a matrix takes about as many bytes as in its file", async (backend) => {
  for (const [index, type] of TYPES.entries()) {
    const shape = { rows: 16, cols: 4096 };
    const bytes = blocks(type, { ...shape, seed: index });
    const { byteLength } = await backend.upload(tensorOf(type, { ...shape, bytes }));
    assert(byteLength <= 1.06 * bytes.length, `${type}: ${byteLength} of ${bytes.length}`);
  }
});

onDevice("a scale that is NaN or infinite is refused wherever it is", async (backend, t) => {
  for (const [type, halves] of Object.entries(HALVES) as [TensorType, object][]) {
    await t.step(type, async () => {
      const { blockBytes } = TENSOR_TYPES[type];
      const shape = { rows: 3, cols: 768 };
      for (const offset of Object.values(halves)) {
        for (const wrong of [0x7c00, 0xfc00, 0x7e01]) {
          for (const row of [0, 2]) {
            const bytes = blocks(type, { ...shape, seed: offset });
            const at = (row + 1) * rowBytes(type, shape.cols) - blockBytes + offset;
            new DataView(bytes.buffer).setUint16(at, wrong, true);
            const tensor = tensorOf(type, { ...shape, bytes });
            await assertRejects(() => backend.upload(tensor), FormatError, tensor.name);
          }
        }
      }
    });
  }
  await t.step("MXFP4", async () => {
    const shape = { rows: 3, cols: 768 };
    const bytes = blocks("MXFP4", { ...shape, seed: 1 });
    bytes[bytes.length - 17] = 255;
    await assertRejects(() => backend.upload(tensorOf("MXFP4", { ...shape, bytes })), FormatError);
  });
});

onDevice(
  "a type without a kernel becomes Q8_0, or float32 where it must be exact",
  async (backend) => {
    const shape = { rows: 4, cols: 64 };
    const bytes = new Uint8Array(4 * rowBytes("NVFP4", 64)).fill(0x35);
    const tensor = tensorOf("NVFP4", { ...shape, bytes });
    await backend.upload(tensor);
    await backend.upload(tensor, { exact: true });
    assertEquals(backend.conversions, ["NVFP4 table: NVFP4 -> Q8_0", "NVFP4 table: NVFP4 -> F32"]);
  },
);
