/** Types without a kernel of their own run all the same, converted when they are loaded. */

import { assert, assertEquals } from "@std/assert";
import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { SafetensorsArrays } from "../../src/formats/safetensors/arrays.ts";
import { dequantize } from "../../src/quant/dequantize.ts";
import { TENSOR_TYPES, type TensorType } from "../../src/quant/types.ts";
import { filled, withBackend } from "./_harness.ts";

const FOLDER = new URL("../data/quants/", import.meta.url);

const CONVERTED = (Object.keys(TENSOR_TYPES) as TensorType[]).filter((type) =>
  TENSOR_TYPES[type].kernel === null
);

/** Root mean square error allowed, as a share of the result's: float sums, or Q8_0 twice. */
const TOLERANCE = { f32: 1e-6, q16: 0.01 };
const REPLACEMENT = { f32: "F32", q16: "Q8_0" };

/**
 * Recorded blocks as a matrix of two rows, and its values. Types that ggml quantises with an importance
 * matrix only are recorded as arbitrary bits: of those, the blocks of sane magnitude.
 */
function fixtureMatrix(type: TensorType) {
  const file = new URL(`${type.toLowerCase()}.safetensors`, FOLDER);
  const arrays = new SafetensorsArrays(Deno.readFileSync(file));
  const set = arrays.has("quantised.bytes") ? "quantised" : "raw";
  const bytes = arrays.get(`${set}.bytes`, "U8");
  const { blockValues, blockBytes } = TENSOR_TYPES[type];
  const sane: { bytes: Uint8Array; values: Float32Array }[] = [];
  for (let at = 0; at < bytes.length; at += blockBytes) {
    const block = {
      bytes: bytes.slice(at, at + blockBytes),
      values: new Float32Array(blockValues),
    };
    dequantize(type, block.bytes, block.values);
    const peak = Math.max(...block.values.map(Math.abs));
    if (peak > 1e-2 && peak < 1e3) sane.push(block);
  }
  const rows = 2;
  const perRow = Math.floor(sane.length / rows);
  assert(perRow > 0, `${type} has ${sane.length} blocks of sane magnitude`);
  const cols = perRow * blockValues;
  const matrix = { rows, cols, bytes: new Uint8Array(rows * perRow * blockBytes) };
  const values = new Float32Array(rows * cols);
  for (const [i, block] of sane.slice(0, rows * perRow).entries()) {
    matrix.bytes.set(block.bytes, i * blockBytes);
    values.set(block.values, i * blockValues);
  }
  return { ...matrix, values };
}

for (const type of CONVERTED) {
  for (const activations of ["f32", "q16"] as const) {
    Deno.test(`${type} is loaded as ${REPLACEMENT[activations]} for ${activations} activations`, () =>
      withBackend(() => createWasmBackend({ threads: 1, activations }), async (backend) => {
        const { rows, cols, bytes, values } = fixtureMatrix(type);
        const weight = await backend.upload({
          name: "matrix",
          type,
          rows,
          cols,
          read(offset, into) {
            into.set(bytes.subarray(offset, offset + into.length));
            return Promise.resolve();
          },
        });
        assertEquals(backend.conversions, [`matrix: ${type} -> ${REPLACEMENT[activations]}`]);
        const input = Float32Array.from({ length: cols }, (_, i) => Math.sin(i * 0.7));
        const x = filled(backend, cols, input);
        const out = backend.createBuffer({ kind: "f32", rows: 1, width: rows });
        backend.submit(
          backend.record((ops) => ops.linear({ x, outputs: [{ weight, out }], rows: 1 })),
        );
        const got = await backend.read(out);
        for (let row = 0; row < rows; row++) {
          let want = 0;
          let norm = 0;
          for (let c = 0; c < cols; c++) {
            want += values[row * cols + c] * input[c];
            norm += (values[row * cols + c] * input[c]) ** 2;
          }
          const error = Math.abs(got[row] - want) / Math.sqrt(norm);
          assert(error <= 4 * TOLERANCE[activations], `row ${row}: ${got[row]}, want ${want}`);
        }
      }));
  }
}

Deno.test("a one-row weight is refused as a matrix", () =>
  withBackend(() => createWasmBackend({ threads: 1, activations: "q8" }), async (backend) => {
    const weight = await backend.upload({
      name: "row",
      type: "F32",
      rows: 1,
      cols: 4,
      read: () => Promise.resolve(),
    });
    const x = filled(backend, 4, new Float32Array(4));
    const out = backend.createBuffer({ kind: "f32", rows: 1, width: 1 });
    let message = "";
    try {
      backend.record((ops) => ops.linear({ x, outputs: [{ weight, out }], rows: 1 }));
    } catch (error) {
      message = String(error);
    }
    assertEquals(
      message,
      "UnsupportedOpError: cannot use row as a matrix: it has 1 row, must be at least 2",
    );
  }));
