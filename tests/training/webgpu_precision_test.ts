/** Halves on the GPU, or on a software adapter; skipped where there is none. */

import { assertEquals, assertRejects } from "@std/assert";
import { UnsupportedOpError } from "../../src/errors.ts";
import { f16ToF32, f32ToF16 } from "../../src/quant/half.ts";
import {
  createWebGpuTrainingBackend,
  type WebGpuTrainingOptions,
} from "../../src/backend/webgpu/training/mod.ts";
import { GPU_SKIPPED } from "../support/gpu.ts";
import { precisionTests } from "./_precision_conformance.ts";
import { trainerTests } from "./_trainer_conformance.ts";

if (GPU_SKIPPED !== undefined) {
  Deno.test.ignore(`training on webgpu in halves (skipped: ${GPU_SKIPPED})`, () => {});
} else {
  precisionTests({
    name: "webgpu",
    open: (storage) =>
      createWebGpuTrainingBackend({ storage: storage as WebGpuTrainingOptions["storage"] }),
    storages: ["f16"],
  });
  trainerTests({
    name: "webgpu in halves",
    open: () => createWebGpuTrainingBackend({ storage: "f16" }),
  });

  Deno.test("webgpu: halves are the nearest, ties to even, and what is too large is infinite", async () => {
    const backend = await createWebGpuTrainingBackend({ storage: "f16" });
    const ulp = 2 ** -10;
    const positive = [
      ...[0, 1, 1 + ulp / 2, 1 + 1.5 * ulp, 1 + 0.49 * ulp, 0.1, 3.14159, 65504, 65519.9],
      // Between the smallest normal half and nothing.
      ...[2 ** -14, 1.9999 * 2 ** -15, 2.5 * 2 ** -24, 1.5 * 2 ** -24, 2 ** -25, 1.01 * 2 ** -25],
      ...[65520, 1e9, Infinity, 1e-30],
    ];
    const values = Float32Array.from(positive.flatMap((value) => [value, -value]).slice(1));
    const shape = { rows: 1, width: values.length };
    const [from, to] = [0, 1].map(() => backend.createBuffer({ kind: "f32", ...shape }));
    const half = backend.createHalfBuffer(shape);
    assertEquals(backend.bytesOf(half), 4 * Math.ceil(values.length / 2));
    backend.write(from, values);
    backend.submit(backend.recordTraining((ops) => {
      ops.pack({ values: from, half, rows: 1 });
      ops.unpack({ values: to, half, rows: 1 });
    }));
    const expected = values.map((value) => f16ToF32(f32ToF16(value)));
    assertEquals(Array.from(await backend.read(to)), Array.from(expected));
    backend.close();
  });

  Deno.test("webgpu: a backend of float32 has no buffers of halves", async () => {
    const backend = await createWebGpuTrainingBackend();
    await assertRejects(
      // deno-lint-ignore require-await -- what it throws is looked at
      async () => backend.createHalfBuffer({ rows: 1, width: 2 }),
      UnsupportedOpError,
      "the backend's storage is f32, must be f16",
    );
    backend.close();
  });
}
