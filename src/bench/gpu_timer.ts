/** Times dispatches on the GPU, with made-up weights and activations. */

import { GpuAllocator } from "../backend/webgpu/allocator.ts";
import { type Gpu, openGpu } from "../backend/webgpu/device.ts";
import { type Dispatch, Kernels } from "../backend/webgpu/kernel.ts";
import { GpuWeight } from "../backend/webgpu/memory.ts";
import { GpuPlan } from "../backend/webgpu/plan.ts";
import { Uploader } from "../backend/webgpu/upload.ts";
import { planeBytes } from "../backend/webgpu/weights/format.ts";
import { f32ToF16 } from "../quant/half.ts";
import type { TensorType } from "../quant/types.ts";
import { madeUp } from "./made_up.ts";
import { summarize } from "./statistics.ts";

/** What a measurement should take, and how often it is repeated. */
const MEASUREMENT_SECONDS = 0.03;
const MEASUREMENTS = 5;
/** A GPU at rest has a slow clock, which takes so long to rise. */
const WARMING_SECONDS = 1;
/** Where only the host's clock is there, which may look at the GPU every ten milliseconds. */
const HOST_SECONDS = 0.4;
const MOST_REPEATS = 2000;
/** Bytes that are packed on the host; larger weights are copies of them, made on the GPU. */
const PACKED_BYTES = 32 << 20;

export class GpuTimer {
  readonly gpu: Gpu;
  /** Whether times are the GPU's own. */
  readonly timestamps: boolean;
  readonly #allocator: GpuAllocator;
  readonly #kernels: Kernels;
  readonly #uploader: Uploader;
  #error: Error | undefined;
  #warm = false;

  private constructor(gpu: Gpu) {
    const { device, maxBinding } = gpu;
    this.gpu = gpu;
    this.timestamps = device.features.has("timestamp-query");
    this.#allocator = new GpuAllocator({ device, maxBytes: Infinity });
    this.#kernels = new Kernels(device);
    this.#uploader = new Uploader({
      ...{ allocator: this.#allocator, kernels: this.#kernels, maxBinding },
    });
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.#error ??= new Error((event as GPUUncapturedErrorEvent).error.message);
    });
  }

  static async open(): Promise<GpuTimer> {
    return new GpuTimer(await openGpu());
  }

  /** Memory for `count` floats, sines unless they are zeros. */
  floats(count: number, { zeros = false }: { zeros?: boolean } = {}): GPUBuffer {
    const buffer = this.#allocator.allocate("workspace", count * 4, "floats");
    if (zeros) return buffer;
    const step = 1 << 20;
    for (let at = 0; at < count; at += step) {
      const values = Float32Array.from(
        { length: Math.min(step, count - at) },
        (_, i) => Math.sin((at + i) * 1.7),
      );
      this.gpu.device.queue.writeBuffer(buffer, at * 4, values);
    }
    return buffer;
  }

  /** Memory for `count` numbers of half precision, sines too. */
  halves(count: number): GPUBuffer {
    const buffer = this.#allocator.allocate("workspace", count * 2, "halves");
    const step = 1 << 20;
    for (let at = 0; at < count; at += step) {
      const values = Uint16Array.from(
        { length: Math.min(step, count - at) },
        (_, i) => f32ToF16(Math.sin((at + i) * 1.7)),
      );
      this.gpu.device.queue.writeBuffer(buffer, at * 2, values);
    }
    return buffer;
  }

  /** A matrix of at most so many rows, as many as fit a binding; some rows are packed, the others copies. */
  async weight({ type, rows, cols }: { type: TensorType; rows: number; cols: number }) {
    const first = madeUp({ type, rows: Math.min(rows, rowsIn(PACKED_BYTES, cols)), cols });
    const small = await this.#uploader.upload([first]);
    const { format, parts: [part] } = small;
    const rowBytes = part.planes.quantBytes / part.rows;
    const all = Math.min(rows, Math.floor(this.gpu.maxBinding / rowBytes));
    if (all <= part.rows) return small;
    const planes = planeBytes(format, { rows: all, cols });
    const size = planes.scaleOffset + Math.max(4, planes.scaleBytes);
    const memory = this.#allocator.allocate("weights", size, small.name);
    const encoder = this.gpu.device.createCommandEncoder();
    for (let row = 0; row < all; row += part.rows) {
      const share = Math.min(part.rows, all - row) / part.rows;
      const copies = [
        [0, 0, part.planes.quantBytes],
        [part.planes.scaleOffset, planes.scaleOffset, part.planes.scaleBytes],
      ];
      for (const [source, target, bytes] of copies) {
        if (bytes === 0) continue;
        const at = target + Math.round(row / part.rows * bytes);
        encoder.copyBufferToBuffer(part.memory, source, memory, at, Math.round(bytes * share));
      }
    }
    this.gpu.device.queue.submit([encoder.finish()]);
    return new GpuWeight({ name: small.name, type, rows: all, cols }, format, [
      { memory, firstRow: 0, rows: all, planes },
    ]);
  }

  /** Frees a buffer or a weight once what uses it has run. */
  free(...memory: readonly (GPUBuffer | GpuWeight)[]): void {
    for (const item of memory) {
      if (item instanceof GpuWeight) { for (const part of item.parts) part.memory.destroy(); }
      else item.destroy();
    }
  }

  /** Seconds that these dispatches take together, one after the other: the median of some measurements. */
  async seconds(dispatches: readonly Dispatch[]): Promise<number> {
    const { device } = this.gpu;
    const plan = new GpuPlan(dispatches, { device, kernels: this.#kernels, length: 1 });
    const run = (repeats: number) =>
      this.timestamps ? this.#onGpu(plan, repeats) : this.#onHost(plan, repeats);
    // The first run compiles; the next ones tell how many make a measurement.
    await run(1);
    const once = Math.min(await run(1), await run(1));
    if (!this.#warm && this.timestamps) {
      await run(Math.ceil(WARMING_SECONDS / once));
      this.#warm = true;
    }
    const wanted = this.timestamps ? MEASUREMENT_SECONDS : HOST_SECONDS;
    const repeats = Math.max(1, Math.min(MOST_REPEATS, Math.ceil(wanted / once)));
    const times: number[] = [];
    while (times.length < MEASUREMENTS) times.push(await run(repeats) / repeats);
    return summarize(times)!.median;
  }

  close(): void {
    this.#allocator.close();
    this.gpu.device.destroy();
  }

  async #onGpu(plan: GpuPlan, repeats: number): Promise<number> {
    const { device } = this.gpu;
    const querySet = device.createQuerySet({ type: "timestamp", count: 2 });
    const { QUERY_RESOLVE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
    const resolved = device.createBuffer({ size: 16, usage: QUERY_RESOLVE | COPY_SRC });
    const staging = device.createBuffer({ size: 16, usage: COPY_DST | MAP_READ });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass({
      timestampWrites: { querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 },
    });
    for (let i = 0; i < repeats; i++) plan.encode(pass);
    pass.end();
    encoder.resolveQuerySet(querySet, 0, 2, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, staging, 0, 16);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    if (this.#error !== undefined) throw this.#error;
    const [start, end] = new BigUint64Array(staging.getMappedRange().slice(0));
    for (const item of [querySet, resolved, staging]) item.destroy();
    return Number(end - start) * 1e-9;
  }

  async #onHost(plan: GpuPlan, repeats: number): Promise<number> {
    const { device } = this.gpu;
    const start = performance.now();
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (let i = 0; i < repeats; i++) plan.encode(pass);
    pass.end();
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
    if (this.#error !== undefined) throw this.#error;
    return (performance.now() - start) / 1000;
  }
}

/** Rows of float32 that so many bytes are, at least one. */
function rowsIn(bytes: number, cols: number): number {
  return Math.max(1, Math.floor(bytes / 4 / cols));
}
