/** The backend on adapters that let a kernel see few or small buffers. */

import { assertEquals, assertThrows } from "@std/assert";
import type { Backend } from "../../../src/backend/backend.ts";
import { createWebGpuBackend } from "../../../src/backend/webgpu/mod.ts";
import { CapacityError } from "../../../src/errors.ts";
import * as attention from "../_attention_conformance.ts";
import { assertSameBits, filled, uploadVector, withBackend } from "../_harness.ts";
import * as latent from "../_latent_conformance.ts";
import { generator, normals, randomWeight } from "../_random.ts";
import { GPU_SKIPPED, SKIP_NOTE } from "../../support/gpu.ts";

/** What WebGPU demands of every adapter. */
const SMALLEST = { maxStorageBuffersPerShaderStage: 8, maxStorageBufferBindingSize: 2 ** 27 };

/** Ops that see more buffers than others do, and some of what they give. */
const WIDEST: Record<string, (backend: Backend) => Promise<Float32Array>> = {
  async "attention with norms and sinks over 8-bit cells"(backend) {
    const inputs = attention.inputsOf({
      ...{ name: "", heads: 4, kvHeads: 2, keyDim: 32, valueDim: 32, rotaryDim: 32 },
      ...{ pairing: "halves", headNorms: true, sinks: true },
    }, 1);
    const run = await attention.attentionRunner(backend, inputs, "q8");
    const [tokens] = [inputs.sequences[2]];
    const outputs = [];
    // By tiles, and by segments.
    for (const step of [tokens.slice(0, 40), tokens.slice(40, 41)]) {
      outputs.push(...(await run(step)).out);
    }
    return Float32Array.from(outputs);
  },
  async "latent attention over 8-bit cells"(backend) {
    const inputs = latent.inputsOf(latent.SHAPES[1], 2);
    const run = await latent.latentRunner(backend, inputs, "q8");
    return (await run(inputs.sequences[2].slice(0, 3))).out;
  },
  async "experts with biases"(backend) {
    const [rows, count, hidden, intermediate] = [40, 3, 64, 32];
    const random = generator(3);
    const matrices = (outputs: number, cols: number) =>
      Array.from(
        { length: count },
        (_, e) =>
          randomWeight(random, { name: `expert ${e}`, type: "MXFP4", rows: outputs, cols }).data,
      );
    const biases = (cols: number) =>
      Array.from(
        { length: count },
        (_, e) => randomWeight(random, { name: `bias ${e}`, type: "F32", rows: 1, cols }).data,
      );
    const experts = await backend.uploadExperts({
      layer: 0,
      gate: matrices(intermediate, hidden),
      up: matrices(intermediate, hidden),
      down: matrices(hidden, intermediate),
      biases: { gate: biases(intermediate), up: biases(intermediate), down: biases(hidden) },
    });
    const outputs = [];
    // Sorted by expert, and each by itself.
    for (const count of [rows, 1]) {
      const out = filled(backend, hidden, new Float32Array(count * hidden));
      const op = {
        x: filled(backend, hidden, normals(random, { length: count * hidden })),
        expertIds: filled(backend, 2, Int32Array.from({ length: 2 * count }, (_, i) => i % 3)),
        weights: filled(backend, 2, new Float32Array(2 * count).fill(0.5)),
      };
      backend.submit(backend.record((ops) =>
        ops.experts({
          ...{ ...op, experts, topK: 2, activation: "clampedSwiglu", out, rows: count },
        })
      ));
      outputs.push(...await backend.read(out));
    }
    return Float32Array.from(outputs);
  },
  async "products with three outputs and biases"(backend) {
    const [cols, rows] = [64, 2];
    const random = generator(4);
    const outputs = await Promise.all([24, 8, 8].map(async (width) => ({
      weight: await backend.upload(
        randomWeight(random, { name: "w", type: "Q8_0", rows: width, cols }).data,
      ),
      bias: await uploadVector(backend, normals(random, { length: width })),
      out: backend.createBuffer({ kind: "f32", rows, width }),
    })));
    const x = filled(backend, cols, normals(random, { length: rows * cols }));
    backend.submit(backend.record((ops) => ops.linear({ x, outputs, rows })));
    const read = [];
    for (const { out } of outputs) read.push(...await backend.read(out));
    return Float32Array.from(read);
  },
};

for (const [name, run] of Object.entries(WIDEST)) {
  Deno.test({
    name: `webgpu limits: ${name} has the same bits where kernels see eight buffers${SKIP_NOTE}`,
    ignore: GPU_SKIPPED !== undefined,
    async fn() {
      const results: Float32Array[] = [];
      for (const limits of [{}, SMALLEST]) {
        const body = async (backend: Backend) => void results.push(await run(backend));
        await withBackend(() => createWebGpuBackend({ limits }), body);
      }
      assertSameBits(results[1], results[0], name);
    },
  });
}

Deno.test({
  name: `webgpu limits: a cache that no kernel could see whole is refused by its size${SKIP_NOTE}`,
  ignore: GPU_SKIPPED !== undefined,
  fn: () =>
    withBackend(() => createWebGpuBackend({ limits: SMALLEST }), (backend) => {
      const shape = { type: "f16", layers: 1, kvHeads: 8, keyDim: 128, valueDim: 128 } as const;
      const { message } = assertThrows(
        () => backend.createKvCache({ ...shape, pages: 1025 }),
        CapacityError,
        `must be at most ${SMALLEST.maxStorageBufferBindingSize}`,
      );
      assertEquals(message.includes("134348800 bytes"), true, message);
      return Promise.resolve();
    }),
});
