/**
 * Products of integers on the GPU: what depends on how activations are rounded, and the kernels against
 * each other. However they share the work, and however packed bytes are multiplied, an output has the same
 * bits.
 */

import { createWebGpuBackend } from "../../src/backend/webgpu/mod.ts";
import type { Dispatch } from "../../src/backend/webgpu/kernel.ts";
import type { OpContext } from "../../src/backend/webgpu/ops/context.ts";
import {
  groupThreads,
  integerShapes,
  shapeRows,
  shapeTokens,
} from "../../src/backend/webgpu/ops/integer_shapes.ts";
import { integerMatrixMatrix } from "../../src/backend/webgpu/ops/integer_tiles.ts";
import { matrixVector } from "../../src/backend/webgpu/ops/matrix_vector.ts";
import {
  type Input,
  lanesOf,
  type Slice,
  slicesOf,
} from "../../src/backend/webgpu/ops/products.ts";
import { quantizedMemory } from "../../src/backend/webgpu/ops/quantize.ts";
import type { TensorType } from "../../src/quant/types.ts";
import { assert } from "@std/assert";
import { GPU_SKIPPED, GPU_SPARSE, HAS_HALVES } from "../support/gpu.ts";
import { roundedOpsConformance } from "./conformance.ts";
import { assertSameBits } from "./_harness.ts";
import { withMachine } from "./_machine.ts";
import { generator, normals } from "./_random.ts";

const OUTPUTS = 70;

interface Way {
  readonly name: string;
  readonly packedDot?: boolean;
  dispatches(input: Input, slices: Slice[]): Dispatch[];
}

/** All ways to compute products of one matrix or of two. */
function ways({ matrices, cols }: { matrices: number; cols: number }): Way[] {
  const tiles = integerShapes({ matrices, lanes: lanesOf(cols) }).map((shape): Way => ({
    name: `tiles of ${shapeRows(shape)} x ${shapeTokens(shape)}, ${shape.groups} groups of ${
      groupThreads(shape)
    }, ${shape.blocks} blocks, ${shape.ahead} ahead`,
    dispatches: (input, slices) => integerMatrixMatrix(input, slices, { shape }),
  }));
  const vectors = [1, 2, 4].map((neighbours): Way => ({
    name: `rows, ${neighbours} neighbours`,
    dispatches: (input, slices) =>
      matrixVector(input, slices, { shape: { rowsEach: 1, blocksEach: 2, neighbours } }),
  }));
  return [
    ...vectors,
    ...tiles,
    { ...vectors[0], name: "bytes one by one", packedDot: false },
    { ...tiles[0], name: "tiles, bytes one by one", packedDot: false },
  ];
}

if (GPU_SKIPPED !== undefined) {
  Deno.test.ignore(`webgpu integers (skipped: ${GPU_SKIPPED})`, () => {});
} else {
  for (const activations of ["q8", "q16"] as const) {
    const name = `webgpu ${activations}`;
    roundedOpsConformance({
      name,
      sparse: GPU_SPARSE,
      open: () => createWebGpuBackend({ activations }),
      halves: HAS_HALVES,
    });
  }

  const cases: { types: TensorType[]; cols: number; rows: number; bits: 8 | 16 }[] = [
    { types: ["Q8_0"], cols: 1056, rows: 37, bits: 8 },
    { types: ["Q6_K"], cols: 768, rows: 66, bits: 16 },
    { types: ["Q4_K"], cols: 4352, rows: 9, bits: 8 },
    { types: ["Q8_0", "Q4_0"], cols: 608, rows: 37, bits: 16 },
  ];
  for (const { types, cols, rows, bits } of cases) {
    const name = `${types.join(" and ")}, ${cols} columns, ${bits} bits`;
    Deno.test(`webgpu integers: all kernels give the same bits for ${name}`, async (t) => {
      await withMachine(async (machine) => {
        const weights = await Promise.all(
          types.map((type, seed) => machine.upload({ type, rows: OUTPUTS, cols, seed })),
        );
        const values = normals(generator(9), { length: rows * cols }) as Float32Array<ArrayBuffer>;
        const x = machine.floats(values);
        const run = ({ dispatches, packedDot = true }: Omit<Way, "name">) =>
          machine.run(rows * OUTPUTS, (out) => {
            const all: Dispatch[] = [];
            const context: OpContext = {
              run: (dispatch) => all.push(dispatch),
              scratch: (_name, bytes) => machine.floats(new Float32Array(bytes / 4)),
              maxBindings: 8,
              rounded: new Map(),
              activations: "q8",
              packedDot,
              halves: false,
            };
            const records = quantizedMemory(context, { x, cols, rows, bits });
            const input = { x: records.memory, width: cols, rows, cols };
            const slices = slicesOf(weights, { out, scale: 1 });
            all.push(...dispatches({ ...input, integers: { bits, packedDot } }, slices));
            return all;
          });
        const expected = await run({ dispatches: matrixVector });
        assert(expected.every(Number.isFinite));
        for (const way of ways({ matrices: types.length, cols })) {
          await t.step(
            way.name,
            async () => assertSameBits(await run(way), expected, way.name),
          );
        }
      });
    });
  }
}
