/**
 * Routed experts on the GPU beyond what the suite of all backends asks for: however rows are put into
 * tiles, experts into buffers and rows into parts, a row has the bits that it has alone.
 */

import { assert } from "@std/assert";
import type { Buffer, ExpertsParams } from "../../src/backend/backend.ts";
import { GpuAllocator } from "../../src/backend/webgpu/allocator.ts";
import { openGpu } from "../../src/backend/webgpu/device.ts";
import { type Dispatch, Kernels } from "../../src/backend/webgpu/kernel.ts";
import { GpuBuffer, GpuExperts } from "../../src/backend/webgpu/memory.ts";
import { tokensOfTile } from "../../src/backend/webgpu/ops/expert_sort.ts";
import { experts as recordExperts } from "../../src/backend/webgpu/ops/experts.ts";
import { GpuPlan } from "../../src/backend/webgpu/plan.ts";
import { Reader } from "../../src/backend/webgpu/reader.ts";
import { Uploader } from "../../src/backend/webgpu/upload.ts";
import type { TensorType } from "../../src/quant/types.ts";
import { assertSameBits } from "./_harness.ts";
import { generator, normals, randomWeight } from "./_random.ts";
import { GPU_SKIPPED } from "../support/gpu.ts";

interface Case {
  readonly count: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly topK: number;
  readonly rows: number;
  /** Of gate and up, and of down. */
  readonly types: readonly [TensorType, TensorType];
  readonly biased?: boolean;
  /** Bytes of a buffer that a kernel can see, and of the workspace. */
  readonly binding?: number;
  readonly workspace?: number;
}

/** A layer's experts with rows that chose among them, on a device of their own. */
async function openCase(test: Case) {
  const { count, hidden, intermediate, topK, rows, types, biased, binding = 1 << 27 } = test;
  const { device } = await openGpu();
  const errors: string[] = [];
  device.addEventListener("uncapturederror", (event) => {
    event.preventDefault();
    errors.push((event as GPUUncapturedErrorEvent).error.message);
  });
  const allocator = new GpuAllocator({ device, maxBytes: Infinity });
  const kernels = new Kernels(device);
  const uploader = new Uploader({ allocator, kernels, maxBinding: binding });
  const reader = new Reader(device);
  const random = generator(7);
  const matrices = (type: TensorType, [outputs, cols]: [number, number]) =>
    uploader.upload(
      Array.from({ length: count }, (_, e) =>
        randomWeight(random, { name: `expert ${e}`, type, rows: outputs, cols }).data),
    );
  const vectors = (length: number, cols: number) =>
    uploader.upload(
      Array.from({ length }, () =>
        randomWeight(random, { name: "bias", type: "F32", rows: 1, cols }).data),
      { exact: true },
    );
  const experts = new GpuExperts({
    layer: 0,
    count,
    hidden,
    intermediate,
    gate: await matrices(types[0], [intermediate, hidden]),
    up: await matrices(types[0], [intermediate, hidden]),
    down: await matrices(types[1], [hidden, intermediate]),
    biases: biased
      ? {
        gateUp: await vectors(2 * count, intermediate),
        down: await vectors(count, hidden),
      }
      : null,
  });
  const x = normals(random, { length: rows * hidden });
  const previous = normals(random, { length: rows * hidden });
  const weights = Float32Array.from({ length: rows * topK }, random);
  // Some experts are chosen often, some by nobody.
  const expertIds = Int32Array.from(
    Array.from({ length: rows }, () => {
      const ids = Array.from({ length: count }, (_, id) => ({ id, key: random() ** (1 + id % 5) }));
      return ids.sort((a, b) => a.key - b.key).slice(0, topK).map(({ id }) => id);
    }).flat(),
  );

  /** Output of rows `from` to `to` as one batch. */
  async function run(from: number, to: number): Promise<Float32Array> {
    const filled = (data: Float32Array | Int32Array, width: number): Buffer => {
      const memory = allocator.allocate("workspace", (to - from) * width * 4, "rows");
      const slice = data.slice(from * width, to * width) as Float32Array<ArrayBuffer>;
      device.queue.writeBuffer(memory, 0, slice);
      const kind = data instanceof Float32Array ? "f32" : "i32";
      return new GpuBuffer({ kind, rows: to - from, width }, memory);
    };
    const out = filled(previous, hidden) as GpuBuffer;
    const params: ExpertsParams = {
      x: filled(x, hidden),
      experts,
      expertIds: filled(expertIds, topK),
      weights: filled(weights, topK),
      topK,
      activation: biased ? "clampedSwiglu" : "silu",
      scale: 1.5,
      out,
      rows: to - from,
    };
    const dispatches: Dispatch[] = [];
    const scratch = new Map<string, GPUBuffer>();
    recordExperts(
      {
        run: (dispatch) => dispatches.push(dispatch),
        scratch: (name, bytes) => {
          const kept = scratch.get(name);
          if (kept !== undefined && kept.size >= bytes) return kept;
          const memory = allocator.allocate("workspace", bytes, name);
          scratch.set(name, memory);
          return memory;
        },
        maxBindings: device.limits.maxStorageBuffersPerShaderStage,
        rounded: new Map(),
        activations: "f32",
        packedDot: false,
        halves: false,
      },
      params,
      { workspaceBytes: test.workspace },
    );
    const plan = new GpuPlan(dispatches, { device, kernels, length: 1 });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    plan.encode(pass);
    pass.end();
    device.queue.submit([encoder.finish()]);
    const bytes = await reader.read([{
      memory: out.memory,
      offset: 0,
      bytes: out.rows * hidden * 4,
    }]);
    assert(errors.length === 0, errors.join("; "));
    return new Float32Array(bytes.buffer);
  }
  const close = () => {
    reader.close();
    allocator.close();
    device.destroy();
  };
  return { run, close, experts };
}

/** Each of some rows has the same bits alone as among all. */
async function checkRows(test: Case, alone: readonly number[]): Promise<void> {
  const { run, close } = await openCase(test);
  try {
    const together = await run(0, test.rows);
    for (const row of alone) {
      assertSameBits(
        await run(row, row + 1),
        together.slice(row * test.hidden, (row + 1) * test.hidden),
        `row ${row} of ${test.rows}`,
      );
    }
  } finally {
    close();
  }
}

if (GPU_SKIPPED !== undefined) {
  Deno.test.ignore(`webgpu experts (skipped: ${GPU_SKIPPED})`, () => {});
} else {
  const PLAIN = { hidden: 64, intermediate: 96, topK: 3, types: ["Q8_0", "Q8_0"] } as const;

  Deno.test("webgpu experts: tiles of every size give a row the bits that it has alone", async () => {
    const sizes = new Set<number>();
    for (const [count, rows] of [[90, 40], [21, 40], [21, 100], [6, 70]]) {
      sizes.add(tokensOfTile(rows * PLAIN.topK, count));
      await checkRows({ ...PLAIN, count, rows }, [0, 7, rows - 1]);
    }
    assert(sizes.size === 4, `only tiles of ${[...sizes]} are tested`);
  });

  Deno.test("webgpu experts: rows longer than a tile's workgroup memory are added in the same order", async () => {
    // Runs of several blocks, and runs of which the last is shorter, or missing.
    await checkRows({
      count: 5,
      hidden: 1280,
      intermediate: 544,
      topK: 2,
      rows: 50,
      types: ["Q4_K", "Q8_0"],
      biased: true,
    }, [0, 49]);
    await checkRows({
      count: 40,
      hidden: 700,
      intermediate: 33,
      topK: 2,
      rows: 40,
      types: ["F16", "F32"],
    }, [0, 39]);
  });

  Deno.test("webgpu experts: experts in several buffers give the bits of those in one", async () => {
    for (const rows of [9, 80]) {
      const test = { ...PLAIN, count: 7, rows, biased: true };
      const [whole, parted] = [await openCase(test), await openCase({ ...test, binding: 14_000 })];
      try {
        const parts = parted.experts.gate.parts.length;
        assert(parts > 1 && parts < 7, `gate has ${parts} parts`);
        assertSameBits(await parted.run(0, rows), await whole.run(0, rows), `${rows} rows`);
      } finally {
        whole.close();
        parted.close();
      }
    }
    // Parts of gate and of down are of different numbers of experts.
    await checkRows(
      { ...PLAIN, count: 7, rows: 40, types: ["F32", "Q4_0"], binding: 50_000 },
      [0, 39],
    );
  });

  Deno.test("webgpu experts: more rows than the workspace has room for are computed in parts", async () => {
    await checkRows({ ...PLAIN, count: 6, rows: 101, workspace: 40_000 }, [0, 34, 69, 100]);
  });
}
