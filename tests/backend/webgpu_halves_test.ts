/**
 * Products of halves on the GPU: the kernels against each other and against float64, and what becomes of
 * numbers that are large, small or none. However kernels share the work, an output has the same bits.
 */

import type { ActivationPrecision } from "../../src/backend/backend.ts";
import type { Dispatch } from "../../src/backend/webgpu/kernel.ts";
import type { OpContext } from "../../src/backend/webgpu/ops/context.ts";
import { groupThreads, shapeRows, shapeTokens } from "../../src/backend/webgpu/ops/block_shapes.ts";
import { useHalves } from "../../src/backend/webgpu/ops/half_products.ts";
import { halfMemory } from "../../src/backend/webgpu/ops/half_rows.ts";
import { halfShapes } from "../../src/backend/webgpu/ops/half_shapes.ts";
import { halfMatrixMatrix, halfTileBytes } from "../../src/backend/webgpu/ops/half_tiles.ts";
import { matrixVector, type VectorShape } from "../../src/backend/webgpu/ops/matrix_vector.ts";
import {
  type Input,
  lanesOf,
  type Slice,
  slicesOf,
} from "../../src/backend/webgpu/ops/products.ts";
import { formatOf } from "../../src/backend/webgpu/weights/formats.ts";
import type { TensorType } from "../../src/quant/types.ts";
import { assert, assertEquals } from "@std/assert";
import { GPU_SKIPPED, HAS_HALVES } from "../support/gpu.ts";
import { product, rowOf } from "./_expected.ts";
import { assertSameBits } from "./_harness.ts";
import { type Machine, withMachine } from "./_machine.ts";
import { generator, normals, randomWeight } from "./_random.ts";
import { dotTolerance, ErrorTally } from "./_tolerance.ts";

const SKIPPED = GPU_SKIPPED ?? (HAS_HALVES ? undefined : "the adapter has no shader-f16");

/** Workgroup memory that every adapter has. */
const WORKGROUP_BYTES = 16384;
const OUTPUTS = 70;

interface Way {
  readonly name: string;
  dispatches(input: Input, slices: Slice[]): Dispatch[];
}

/** All ways to compute products of one matrix or of two. */
function ways({ matrices, cols }: { matrices: number; cols: number }): Way[] {
  const tiles = halfShapes({ matrices, lanes: lanesOf(cols) }).map((shape): Way => ({
    name: `tiles of ${shapeRows(shape)} x ${shapeTokens(shape)}, ${shape.groups} groups of ${
      groupThreads(shape)
    }`,
    dispatches: (input, slices) => halfMatrixMatrix(input, slices, { shape }),
  }));
  const shapes: VectorShape[] = [
    { rowsEach: 1, blocksEach: 2, neighbours: 1 },
    { rowsEach: 2, blocksEach: 1, neighbours: 4 },
  ];
  const vectors = shapes.map((shape): Way => ({
    name: `rows, ${JSON.stringify(shape)}`,
    dispatches: (input, slices) => matrixVector(input, slices, { shape }),
  }));
  return [...vectors, ...tiles];
}

/** Products of rows, rounded to halves, with F16 weights: `[rows, OUTPUTS]`. */
async function multiply(
  machine: Machine,
  { values, cols, seeds = [0], way = matrixVector }: {
    values: Float32Array;
    cols: number;
    seeds?: readonly number[];
    way?: Way["dispatches"];
  },
): Promise<Float32Array> {
  const weights = await Promise.all(
    seeds.map((seed) => machine.upload({ type: "F16", rows: OUTPUTS, cols, seed })),
  );
  const rows = values.length / cols;
  const x = machine.floats(values as Float32Array<ArrayBuffer>);
  return await machine.run(rows * OUTPUTS, (out) => {
    const all: Dispatch[] = [];
    const context: OpContext = {
      run: (dispatch) => all.push(dispatch),
      scratch: (_name, bytes) => machine.floats(new Float32Array(bytes / 4)),
      maxBindings: 8,
      rounded: new Map(),
      activations: "q8",
      packedDot: false,
      halves: true,
    };
    const { memory, factors } = halfMemory(context, { x, cols, rows });
    const input = { x: memory, factors, width: cols, rows, cols };
    all.push(...way(input, slicesOf(weights, { out, scale: 1 })));
    return all;
  });
}

/** Both kernels' ways. */
const KERNELS: Record<string, Way["dispatches"]> = {
  rows: matrixVector,
  tiles: halfMatrixMatrix,
};

Deno.test("webgpu halves: tiles of any shape fit the workgroup memory that every adapter has", () => {
  for (const matrices of [1, 2]) {
    const shapes = halfShapes({ matrices, lanes: 64 });
    assert(shapes.length > 0);
    for (const shape of shapes) {
      const bytes = halfTileBytes({ shape, matrices, cols: 4096 });
      assert(bytes <= WORKGROUP_BYTES, `${JSON.stringify(shape)} takes ${bytes} bytes`);
    }
  }
});

Deno.test("webgpu halves: they are used for F16 weights alone, where 8 bits would do", () => {
  const used = (types: TensorType[], activations: ActivationPrecision, halves = true) => {
    const matrices = types.map((type) => ({
      weight: { format: formatOf(type, { exact: false, cols: 64 }) },
    }));
    return useHalves({ activations, halves }, matrices);
  };
  assertEquals(used(["F16", "F16"], "q8"), true);
  assertEquals(used(["F16"], "q8", false), false, "without shader-f16");
  for (const activations of ["q16", "f32"] as const) {
    assertEquals(used(["F16"], activations), false);
  }
  for (const type of ["BF16", "F32", "Q8_0"] as const) {
    assertEquals(used(["F16", type], "q8"), false, type);
  }
});

if (SKIPPED !== undefined) {
  Deno.test.ignore(`webgpu halves (skipped: ${SKIPPED})`, () => {});
} else {
  for (
    const { matrices, cols, rows } of [
      { matrices: 1, cols: 1056, rows: 37 },
      { matrices: 1, cols: 100, rows: 67 },
      { matrices: 1, cols: 4352, rows: 9 },
      { matrices: 2, cols: 608, rows: 37 },
    ]
  ) {
    const name = `${matrices === 1 ? "a matrix" : "two matrices"} of ${cols} columns`;
    Deno.test(`webgpu halves: all kernels give the same bits for ${name}`, async (t) => {
      await withMachine(async (machine) => {
        const values = normals(generator(9), { length: rows * cols });
        const seeds = [1, 2].slice(0, matrices);
        const expected = await multiply(machine, { values, cols, seeds });
        assert(expected.every(Number.isFinite));
        for (const { name, dispatches } of ways({ matrices, cols })) {
          await t.step(name, async () => {
            const actual = await multiply(machine, { values, cols, seeds, way: dispatches });
            assertSameBits(actual, expected, name);
          });
        }
      });
    });
  }

  Deno.test("webgpu halves: errors are those of half precision in sums of eight, however long a row is", async (t) => {
    await withMachine(async (machine) => {
      for (const { cols, scale } of [{ cols: 96, scale: 1 }, { cols: 4352, scale: 1e-3 }]) {
        await t.step(`${cols} columns, ${scale}`, async () => {
          const rows = 17;
          const values = normals(generator(cols), { length: rows * cols, scale });
          const options = { name: "weight", type: "F16", rows: OUTPUTS, cols } as const;
          const weight = randomWeight(generator(3), options);
          const actual = await multiply(machine, { values, cols, seeds: [3] });
          const tally = new ErrorTally("products of halves");
          for (const [i, value] of actual.entries()) {
            const x = Float64Array.from(rowOf(values, Math.floor(i / OUTPUTS), cols));
            const row = rowOf(weight.values, i % OUTPUTS, cols);
            tally.add(value, {
              expected: product(row, x),
              tolerance: dotTolerance({
                ...{ type: "F16", precision: "halves", weight: row, x, added: 0 },
              }),
              at: `value ${i}`,
            });
          }
          tally.finish();
        });
      }
    });
  });

  Deno.test("webgpu halves: a row times a power of two has the same results times that", async (t) => {
    await withMachine(async (machine) => {
      const [cols, rows] = [320, 3];
      const values = normals(generator(5), { length: rows * cols });
      for (const [name, way] of Object.entries(KERNELS)) {
        const plain = await multiply(machine, { values, cols, way });
        for (const power of [-90, -40, 17, 100]) {
          await t.step(`${name}, 2^${power}`, async () => {
            const scaled = values.map((value) => value * 2 ** power);
            const actual = await multiply(machine, { values: scaled, cols, way });
            assertSameBits(actual, plain.map((value) => value * 2 ** power), name);
          });
        }
      }
    });
  });

  Deno.test("webgpu halves: a NaN and an infinity make a row's results NaN, and no other row's", async (t) => {
    await withMachine(async (machine) => {
      const [cols, rows] = [320, 5];
      const values = normals(generator(6), { length: rows * cols });
      values[1 * cols + 200] = NaN;
      values[2 * cols] = Infinity;
      values[4 * cols + 319] = -Infinity;
      for (const [name, way] of Object.entries(KERNELS)) {
        await t.step(name, async () => {
          const actual = await multiply(machine, { values, cols, way });
          actual.forEach((value, i) => {
            const row = Math.floor(i / OUTPUTS);
            const right = row === 0 || row === 3 ? Number.isFinite(value) : Number.isNaN(value);
            assert(right, `row ${row} has ${value}`);
          });
        });
      }
    });
  });

  Deno.test("webgpu halves: numbers at either end of float32 are no worse than others", async () => {
    await withMachine(async (machine) => {
      const cols = 64;
      // One block of the largest numbers, and one of such as are next to nothing.
      const values = new Float32Array(cols).fill(1e-44, 32);
      values.set(normals(generator(7), { length: 32 }).map((v) => Math.fround(1e37 * v)));
      values[0] = 3e38;
      const options = { name: "weight", type: "F16", rows: OUTPUTS, cols } as const;
      const weight = randomWeight(generator(0), options);
      const x = Float64Array.from(values);
      const tally = new ErrorTally("large numbers");
      for (const [r, value] of (await multiply(machine, { values, cols })).entries()) {
        const row = rowOf(weight.values, r, cols);
        const tolerance = dotTolerance({
          ...{ type: "F16", precision: "halves", weight: row, x, added: 0 },
        });
        tally.add(value, { expected: product(row, x), tolerance, at: `output ${r}` });
      }
      tally.finish();
    });
  });
}
