/** A GPU for tests of kernels: memory, weights, and dispatches that run. */

import { GpuAllocator } from "../../src/backend/webgpu/allocator.ts";
import { openGpu } from "../../src/backend/webgpu/device.ts";
import { type Dispatch, Kernels } from "../../src/backend/webgpu/kernel.ts";
import type { GpuWeight } from "../../src/backend/webgpu/memory.ts";
import { GpuPlan } from "../../src/backend/webgpu/plan.ts";
import { Reader } from "../../src/backend/webgpu/reader.ts";
import { Uploader } from "../../src/backend/webgpu/upload.ts";
import type { TensorType } from "../../src/quant/types.ts";
import { generator, randomWeight } from "./_random.ts";

/** A device with what runs dispatches on it. */
export class Machine {
  readonly #device: GPUDevice;
  readonly #allocator: GpuAllocator;
  readonly #kernels: Kernels;
  readonly #reader: Reader;
  #error: Error | undefined;

  constructor(device: GPUDevice) {
    this.#device = device;
    this.#allocator = new GpuAllocator({ device, maxBytes: Infinity });
    this.#kernels = new Kernels(device);
    this.#reader = new Reader(device);
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.#error ??= new Error((event as GPUUncapturedErrorEvent).error.message);
    });
  }

  /** Random weights in parts of at most so many bytes. */
  upload(
    options: { type: TensorType; rows: number; cols: number; seed: number; partBytes?: number },
  ): Promise<GpuWeight> {
    const { seed, partBytes = 2 ** 27, ...shape } = options;
    const { data } = randomWeight(generator(seed), { name: "weight", ...shape });
    const context = { allocator: this.#allocator, kernels: this.#kernels, maxBinding: partBytes };
    return new Uploader(context).upload([data]);
  }

  floats(values: Float32Array<ArrayBuffer>): GPUBuffer {
    const buffer = this.#allocator.allocate("workspace", values.byteLength, "floats");
    this.#device.queue.writeBuffer(buffer, 0, values);
    return buffer;
  }

  /** What an output of `length` NaNs is after the dispatches for it. */
  async run(
    length: number,
    build: (out: GPUBuffer) => readonly Dispatch[],
  ): Promise<Float32Array> {
    const memory = this.floats(new Float32Array(length).fill(NaN));
    const options = { device: this.#device, kernels: this.#kernels, length: 1 };
    const plan = new GpuPlan(build(memory), options);
    const encoder = this.#device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    plan.encode(pass);
    pass.end();
    this.#device.queue.submit([encoder.finish()]);
    const bytes = await this.#reader.read([{ memory, offset: 0, bytes: length * 4 }]);
    if (this.#error !== undefined) throw this.#error;
    return new Float32Array(bytes.buffer);
  }

  close(): void {
    this.#reader.close();
    this.#device.destroy();
  }
}

export async function withMachine(body: (machine: Machine) => Promise<void>): Promise<void> {
  const machine = new Machine((await openGpu()).device);
  try {
    await body(machine);
  } finally {
    machine.close();
  }
}
