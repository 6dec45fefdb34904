import { assert, assertEquals, assertRejects } from "@std/assert";
import type { TensorData } from "../../src/backend/backend.ts";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { FormatError } from "../../src/errors.ts";
import { float8Tensor } from "../../src/model/float8.ts";
import { converted, headRows, rowRange, transposedHeads } from "../../src/model/tensor_data.ts";
import { dequantize } from "../../src/quant/dequantize.ts";
import { f16ToF32 } from "../../src/quant/half.ts";
import { rowBytes, type TensorType } from "../../src/quant/types.ts";
import { f32Bytes, noise } from "./_memory_source.ts";

function tensorOf(
  bytes: Uint8Array,
  shape: { type: TensorType; rows: number; cols: number },
): TensorData {
  return {
    name: "made",
    ...shape,
    read(offset, into) {
      into.set(bytes.subarray(offset, offset + into.length));
      return Promise.resolve();
    },
    location: { file: "made.gguf", offset: 100, byteLength: bytes.length },
  };
}

/** Rows 0, 1, 2, ... whose values are 100 * row + column. */
function counting(rows: number, cols: number): TensorData {
  const values = Float32Array.from(
    { length: rows * cols },
    (_, i) => 100 * Math.floor(i / cols) + i % cols,
  );
  return tensorOf(f32Bytes(values), { type: "F32", rows, cols });
}

/** All bytes, read at once, and read in pieces that respect no row. */
async function bytesOf(tensor: TensorData): Promise<Uint8Array> {
  const length = tensor.rows * rowBytes(tensor.type, tensor.cols);
  const whole = new Uint8Array(length);
  await tensor.read(0, whole);
  const pieces = new Uint8Array(length);
  for (let at = 0; at < length; at += 7) await tensor.read(at, pieces.subarray(at, at + 7));
  assertEquals(pieces, whole, "read in pieces");
  const backwards = new Uint8Array(length);
  for (let at = length - length % 5; at >= 0; at -= 5) {
    await tensor.read(at, backwards.subarray(at, at + 5));
  }
  assertEquals(backwards, whole, "read from the end");
  return whole;
}

async function valuesOf(tensor: TensorData): Promise<number[]> {
  const values = new Float32Array(tensor.rows * tensor.cols);
  dequantize(tensor.type, await bytesOf(tensor), values);
  return [...values];
}

Deno.test("a range of rows is a matrix of its own that knows where it lies", async () => {
  const part = rowRange(counting(6, 3), { name: "part", start: 2, count: 2 });
  assertEquals(await valuesOf(part), [200, 201, 202, 300, 301, 302]);
  assertEquals(part.location, { file: "made.gguf", offset: 100 + 2 * 12, byteLength: 24 });
});

Deno.test("some rows of each head follow one another", async () => {
  const part = headRows(counting(6, 2), {
    name: "part",
    heads: 2,
    perHead: 3,
    start: 1,
    count: 2,
  });
  assertEquals(await valuesOf(part), [100, 101, 200, 201, 400, 401, 500, 501]);
  assertEquals(part.location, undefined);
});

Deno.test("heads are transposed one by one, in their type", async () => {
  const rows = { name: "part", heads: 2, perHead: 3, start: 0, count: 2 };
  const turned = transposedHeads(counting(6, 3), { ...rows, otherwise: "F16" });
  assertEquals([turned.type, turned.rows, turned.cols], ["F32", 6, 2]);
  assertEquals(await valuesOf(turned), [0, 100, 1, 101, 2, 102, 300, 400, 301, 401, 302, 402]);
});

/** 4 rows of 32 values in blocks: a scale of 1, then the values as signed bytes. */
function blocks(): TensorData {
  const bytes = new Uint8Array(4 * 34);
  for (let row = 0; row < 4; row++) {
    bytes[row * 34 + 1] = 0x3c;
    for (let c = 0; c < 32; c++) bytes[row * 34 + 2 + c] = 10 * row + c;
  }
  return tensorOf(bytes, { type: "Q8_0", rows: 4, cols: 32 });
}

Deno.test("heads whose blocks lie across the new rows become floats when they are transposed", async () => {
  const rows = { name: "part", heads: 2, perHead: 2, start: 1, count: 1 };
  for (const otherwise of ["F32", "F16"] as const) {
    const turned = transposedHeads(blocks(), { ...rows, otherwise });
    assertEquals([turned.type, turned.rows, turned.cols], [otherwise, 64, 1]);
    const expected = [10, 30].flatMap((first) => Array.from({ length: 32 }, (_, c) => first + c));
    assertEquals(await valuesOf(turned), expected);
  }
});

Deno.test("a conversion to half precision rounds to the nearest", async () => {
  const values = noise(12, 5);
  const halves = converted(tensorOf(f32Bytes(values), { type: "F32", rows: 3, cols: 4 }), "F16");
  const bits = new Uint16Array((await bytesOf(halves)).buffer);
  for (const [i, half] of bits.entries()) {
    assert(Math.abs(f16ToF32(half) - values[i]) <= 2 ** -12, `value ${i}`);
  }
});

Deno.test("a computed tensor ends where its rows end", async () => {
  const turned = transposedHeads(counting(2, 2), {
    name: "part",
    heads: 1,
    perHead: 2,
    start: 0,
    count: 2,
    otherwise: "F32",
  });
  await assertRejects(
    () => turned.read(8, new Uint8Array(9)),
    RangeError,
    "cannot read part: the end is byte 17, must be at most 16",
  );
});

/** e4m3 bytes of rows x cols, and a factor for each tile. */
function float8(options: { rows: number; cols: number; tile: number; bytes: Uint8Array }) {
  const { rows, cols, tile, bytes } = options;
  const across = Math.ceil(cols / tile);
  const down = Math.ceil(rows / tile);
  const factors = Float32Array.from({ length: across * down }, (_, i) => 2 ** (i - 3));
  const tensor = float8Tensor({ name: "scaled", rows, cols }, {
    bytes(offset, into) {
      into.set(bytes.subarray(offset, offset + into.length));
      return Promise.resolve();
    },
    scales: tensorOf(f32Bytes(factors), { type: "F32", rows: down, cols: across }),
    tile: { rows: tile, cols: tile },
  });
  const factorAt = (r: number, c: number) =>
    factors[Math.floor(r / tile) * across + Math.floor(c / tile)];
  return { tensor, factorAt };
}

/** 1.0, 1.125, ... 1.875: bytes whose values are plain to see. */
const ONES = (count: number) => Uint8Array.from({ length: count }, (_, i) => 0x38 + i % 8);

for (const { cols, type } of [{ cols: 160, type: "F8_E4M3" }, { cols: 40, type: "F32" }] as const) {
  Deno.test(`FP8 of ${cols} columns with partial tiles is ${type} with every tile's factor`, async () => {
    const rows = 70;
    const bytes = ONES(rows * cols);
    const { tensor, factorAt } = float8({ rows, cols, tile: 64, bytes });
    assertEquals(tensor.type, type);
    const values = await valuesOf(tensor);
    for (const [i, value] of values.entries()) {
      const expected = (1 + i % 8 / 8) * factorAt(Math.floor(i / cols), i % cols);
      assertEquals(value, expected, `value ${i}`);
    }
  });
}

Deno.test("FP8 that is not a number is refused by name when it is loaded", async () => {
  for (const [cols, bad] of [[32, 0x7f], [20, 0xff]]) {
    const bytes = ONES(cols * 3);
    bytes[cols + 3] = bad;
    const { tensor } = float8({ rows: 3, cols, tile: 32, bytes });
    await assertRejects(
      () => createReferenceBackend().upload(tensor),
      FormatError,
      "cannot load scaled: value 3 of row 1 is NaN, must be a finite number",
    );
  }
});
