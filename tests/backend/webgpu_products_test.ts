/**
 * The kernels for products against each other: however they share the work, an output has the same bits.
 * That it is right, `conformance.ts` says.
 */

import type { TensorType } from "../../src/quant/types.ts";
import type { Dispatch } from "../../src/backend/webgpu/kernel.ts";
import { bufferOf } from "../../src/backend/webgpu/memory.ts";
import { createWebGpuBackend } from "../../src/backend/webgpu/mod.ts";
import type { OpContext } from "../../src/backend/webgpu/ops/context.ts";
import { gatedLinear, linear } from "../../src/backend/webgpu/ops/linear.ts";
import { matrixMatrix } from "../../src/backend/webgpu/ops/matrix_matrix.ts";
import { matrixVector, type VectorShape } from "../../src/backend/webgpu/ops/matrix_vector.ts";
import {
  type Input,
  lanesOf,
  type Slice,
  slicesOf,
} from "../../src/backend/webgpu/ops/products.ts";
import { shapesFor, tileRows, tileTokens } from "../../src/backend/webgpu/ops/tile_shapes.ts";
import { assert, assertEquals } from "@std/assert";
import { assertSameBits, filled, uploadVector, withBackend } from "./_harness.ts";
import { withMachine } from "./_machine.ts";
import { generator, normals, randomWeight } from "./_random.ts";
import { GPU_SKIPPED } from "../support/gpu.ts";

interface Case {
  readonly types: readonly TensorType[];
  readonly cols: number;
  readonly rows: number;
}

interface Way {
  readonly name: string;
  /** Rows of the input that it multiplies. */
  readonly rows: number;
  dispatches(input: Input, slices: Slice[]): Dispatch[];
}

const OUTPUTS = 70;
const VECTOR_SHAPES: readonly (VectorShape & { rows: number })[] = [
  { rows: 1, rowsEach: 2, blocksEach: 3 },
  { rows: 2, rowsEach: 1, blocksEach: 2 },
  { rows: 5, rowsEach: 2, blocksEach: 1 },
];

function ways({ types, cols, rows }: Case): Way[] {
  const vectors = VECTOR_SHAPES.map(({ rows, ...shape }): Way => ({
    name: `${rows} rows, ${JSON.stringify(shape)}`,
    rows,
    dispatches: (input, slices) => matrixVector(input, slices, { shape }),
  }));
  const tiles = shapesFor({ matrices: types.length, lanes: lanesOf(cols) }).map((shape): Way => ({
    name: `tiles of ${tileRows(shape)} x ${tileTokens(shape)}, ${shape.groups} groups`,
    rows,
    dispatches: (input, slices) => matrixMatrix(input, slices, { shape }),
  }));
  return [...vectors, ...tiles];
}

if (GPU_SKIPPED !== undefined) {
  Deno.test.ignore(`webgpu products (skipped: ${GPU_SKIPPED})`, () => {});
} else {
  const cases: Case[] = [
    { types: ["Q8_0"], cols: 1024, rows: 37 },
    { types: ["Q4_K"], cols: 768, rows: 70 },
    { types: ["Q8_0"], cols: 2464, rows: 9 },
    { types: ["Q4_K"], cols: 4352, rows: 9 },
    { types: ["F32"], cols: 130, rows: 37 },
    { types: ["Q8_0", "Q4_0"], cols: 608, rows: 37 },
  ];
  for (const test of cases) {
    const { types, cols, rows } = test;
    const name = `${types.join(" and ")}, ${cols} columns`;
    Deno.test(`webgpu products: all kernels give the same bits for ${name}`, async (t) => {
      await withMachine(async (machine) => {
        const weights = await Promise.all(
          types.map((type, seed) => machine.upload({ type, rows: OUTPUTS, cols, seed })),
        );
        const values = normals(generator(9), { length: rows * cols }) as Float32Array<ArrayBuffer>;
        const x = machine.floats(values);
        const run = ({ rows, dispatches }: Pick<Way, "rows" | "dispatches">) =>
          machine.run(rows * OUTPUTS, (out) => {
            const slices = slicesOf(weights, { out, scale: 1 });
            return dispatches({ x, width: cols, rows, cols }, slices);
          });
        const expected = await run({ rows, dispatches: matrixVector });
        assert(expected.every(Number.isFinite));
        for (const way of ways(test)) {
          await t.step(
            way.name,
            async () =>
              assertSameBits(await run(way), expected.subarray(0, way.rows * OUTPUTS), way.name),
          );
        }
      });
    });
  }

  Deno.test("webgpu products: matrices in several parts, cut apart, give the same bits", async () => {
    await withMachine(async (machine) => {
      const [cols, rows] = [96, 11];
      const values = normals(generator(5), { length: rows * cols }) as Float32Array<ArrayBuffer>;
      const input = { x: machine.floats(values), width: cols, rows, cols };
      const run = async (partBytes?: number) => {
        const weights = await Promise.all(
          (["Q8_0", "F32"] as const).map((type, seed) =>
            machine.upload({ type, rows: OUTPUTS, cols, seed, partBytes })
          ),
        );
        const outputs = [];
        for (const kernel of [matrixVector, matrixMatrix]) {
          outputs.push(
            await machine.run(rows * OUTPUTS, (out) => {
              const slices = slicesOf(weights, { out, scale: 1 });
              assertEquals(slices.length > 2, partBytes !== undefined);
              return kernel(input, slices);
            }),
          );
        }
        return outputs;
      };
      const whole = await run();
      const cut = await run(96 * 4 * 16);
      for (const [i, output] of cut.entries()) assertSameBits(output, whole[i], `kernel ${i}`);
    });
  });

  Deno.test("webgpu products: a norm within a product gives the bits of one before it", async () => {
    await withBackend(createWebGpuBackend, async (backend) => {
      for (const { cols, rows } of [1, 2, 3, 9].map((rows) => ({ cols: 640, rows }))) {
        const { data } = randomWeight(generator(1), {
          ...{ name: "weight", type: "Q8_0", rows: OUTPUTS, cols },
        });
        const weight = await backend.upload(data);
        const norm = {
          weight: await uploadVector(backend, normals(generator(2), { length: cols })),
        };
        const x = filled(backend, cols, normals(generator(3), { length: rows * cols }));
        const create = (width: number) => backend.createBuffer({ kind: "f32", rows, width });
        const [normed, together, apart] = [cols, OUTPUTS, OUTPUTS].map(create);
        backend.submit(backend.record((ops) => {
          const full = { ...norm, eps: 1e-6 };
          ops.linear({ x, norm: full, outputs: [{ weight, out: together }], rows });
          ops.rmsNorm({ x, ...full, out: normed, rows });
          ops.linear({ x: normed, outputs: [{ weight, out: apart }], rows });
        }));
        const expected = await backend.read(apart);
        assertSameBits(await backend.read(together), expected, `${rows} rows`);
      }
    });
  });

  Deno.test("webgpu products: those of a layer take few dispatches", async () => {
    await withBackend(createWebGpuBackend, async (backend) => {
      const [hidden, kv, intermediate] = [64, 32, 96];
      const upload = (rows: number, cols: number) =>
        backend.upload(randomWeight(generator(1), { name: "w", type: "Q8_0", rows, cols }).data);
      const vector = (length: number) => uploadVector(backend, new Float32Array(length));
      const norm = { weight: await vector(hidden), eps: 1e-6 };
      const [q, k, v, output] = await Promise.all(
        [hidden, kv, kv, hidden].map((rows) => upload(rows, hidden)),
      );
      const [gate, up] = [await upload(intermediate, hidden), await upload(intermediate, hidden)];
      const biases = await Promise.all([hidden, kv, kv].map(vector));
      // Queries, keys and values see twelve buffers and their input.
      for (
        const { rows, maxBindings, expected } of [
          { rows: 1, maxBindings: 8, expected: 6 },
          { rows: 1, maxBindings: 10, expected: 5 },
          { rows: 1, maxBindings: 13, expected: 4 },
          { rows: 64, maxBindings: 8, expected: 7 },
          { rows: 64, maxBindings: 10, expected: 6 },
          { rows: 64, maxBindings: 13, expected: 5 },
        ]
      ) {
        const create = (width: number) => backend.createBuffer({ kind: "f32", rows, width });
        const x = create(hidden);
        const dispatches: Dispatch[] = [];
        const context: OpContext = {
          run: (dispatch) => dispatches.push(dispatch),
          scratch: (_name, bytes) => bufferOf(create(bytes / 4 / rows)).memory,
          maxBindings,
          rounded: new Map(),
          activations: "f32",
          packedDot: false,
          halves: false,
        };
        const outputs = [q, k, v].map((weight, i) => ({
          ...{ weight, bias: biases[i], out: create(weight.rows) },
        }));
        linear(context, { x, norm, outputs, rows });
        linear(context, {
          x: create(hidden),
          outputs: [{ weight: output, out: x, accumulate: true }],
          rows,
        });
        const out = create(intermediate);
        gatedLinear(context, { x, norm, gate, up, activation: "silu", out, rows });
        assertEquals(dispatches.length, expected, dispatches.map(({ label }) => label).join("\n"));
        for (const { bindings } of dispatches) assert(bindings.length <= maxBindings);
      }
    });
  });
}
