/**
 * The GPU backend: WGSL kernels over weights in their own formats. Runs wherever there is WebGPU, in
 * Deno and in pages. A plan's dispatches are made when it is recorded; `submit` encodes those of all its
 * plans, queues them in one submission and returns; only reading waits. Arithmetic is float32, but where
 * rounded activations are asked for: products of weights that are integers under scales are those of
 * integers, and products of halves are in half precision where activations of 8 bits would do.
 */

import { BackendLostError } from "../../errors.ts";
import { faultDue, type Faults } from "../../faults.ts";
import {
  type ActivationPrecision,
  type Backend,
  type BackendMemory,
  type Buffer,
  type ExpertReplacement,
  type Experts,
  type ExpertTensors,
  type ExpertTraffic,
  type KvCache,
  type KvCacheOptions,
  type LatentCache,
  type LatentCacheOptions,
  type ModelCache,
  type Ops,
  PAGE_TOKENS,
  type PagePart,
  type Plan,
  type TensorData,
  type UploadOptions,
  type Weight,
} from "../backend.ts";
import {
  checkExpertTensors,
  checkReplacement,
  firstExpert,
  residentTraffic,
} from "../expert_tensors.ts";
import { GpuAllocator } from "./allocator.ts";
import { createKvCache, createLatentCache } from "./caches.ts";
import { type Gpu, type GpuLimits, openGpu } from "./device.ts";
import { Kernels } from "./kernel.ts";
import { bufferOf, cacheOf, expertsOf, GpuBuffer, GpuExperts } from "./memory.ts";
import { checkPageBytes, pageBytes, pageRuns } from "./pages.ts";
import { GpuPlan, runPlans } from "./plan.ts";
import type { Profiler } from "./profiler.ts";
import { Reader } from "./reader.ts";
import { GpuRecorder, type RecorderContext } from "./recorder.ts";
import { Uploader } from "./upload.ts";

export interface WebGpuBackendOptions {
  /** Bytes that weights, caches and workspace may take together; unlimited by default. */
  readonly maxBytes?: number;
  /**
   * How activations enter products with quantised weights; float32 by default. Other arithmetic is
   * float32 in any case.
   */
  readonly activations?: ActivationPrecision;
  /** Those of a smaller adapter, for tests; the adapter's own by default. */
  readonly limits?: GpuLimits;
  /** What is to fail on purpose. */
  readonly faults?: Faults;
  /** Takes over running plans, to time them. */
  readonly profiler?: Profiler;
}

/** Opens a backend on the best adapter. Throws CapacityError where there is none. */
export async function createWebGpuBackend(options: WebGpuBackendOptions = {}): Promise<Backend> {
  return new WebGpuBackend(await openGpu(options.limits), options);
}

/** Milliseconds within which a device that is lost says so. */
const LOSS_MS = 200;

/** What `createWebGpuBackend` opens, for backends that add ops to it. */
export class WebGpuBackend implements Backend {
  readonly name = "webgpu";
  readonly adapter: string;
  readonly threads = 1;
  readonly activations: ActivationPrecision;
  readonly chooses = true;
  readonly numerics: string;
  readonly #gpu: Gpu;
  readonly #faults: Faults | undefined;
  readonly #profiler: Profiler | undefined;
  readonly #allocator: GpuAllocator;
  readonly #kernels: Kernels;
  readonly #uploader: Uploader;
  readonly #reader: Reader;
  readonly #experts: GpuExperts[] = [];
  readonly #scratch = new Map<string, GPUBuffer>();
  readonly #tables = new Map<string, GPUBuffer>();
  /** A plan has run: what memory lacks from now on was not asked for at load. */
  #running = false;
  #lost: BackendLostError | null = null;
  #closed = false;

  constructor(gpu: Gpu, options: WebGpuBackendOptions) {
    const { maxBytes = Infinity, activations = "f32", faults, profiler } = options;
    const { device, adapter, maxBinding } = gpu;
    this.#gpu = gpu;
    this.adapter = adapter;
    this.numerics = `webgpu ${adapter}${gpu.halves ? " with halves" : ""}`;
    this.activations = activations;
    this.#faults = faults;
    this.#profiler = profiler;
    this.#allocator = new GpuAllocator({ device, maxBytes, faults });
    this.#kernels = new Kernels(device, faults);
    this.#uploader = new Uploader({
      ...{ allocator: this.#allocator, kernels: this.#kernels, maxBinding },
    });
    this.#reader = new Reader(device);
    // A lost device goes on taking calls, and its errors are told here only.
    device.lost.then(({ message }) => {
      // Whatever failed before did so for it.
      this.#lost = null;
      this.#lose(`the device was lost (${message})`);
    });
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.#lose((event as GPUUncapturedErrorEvent).error.message);
    });
  }

  get conversions(): readonly string[] {
    return this.#uploader.conversions;
  }

  async upload(tensor: TensorData, options: UploadOptions = {}): Promise<Weight> {
    this.#checkAlive();
    return await this.#uploader.upload([tensor], options);
  }

  async uploadExperts(tensors: ExpertTensors): Promise<Experts> {
    this.#checkAlive();
    checkExpertTensors(tensors);
    const { layer, gate, up, down, biases } = tensors;
    const upload = (list: readonly TensorData[], exact = false) =>
      this.#uploader.upload(list, { exact });
    const experts = new GpuExperts({
      layer,
      count: gate.length,
      hidden: gate[0].cols,
      intermediate: gate[0].rows,
      gate: await upload(gate),
      up: await upload(up),
      down: await upload(down),
      biases: biases === undefined ? null : {
        gateUp: await upload([...biases.gate, ...biases.up], true),
        down: await upload(biases.down, true),
      },
    });
    this.#experts.push(experts);
    return experts;
  }

  async replaceExpert(of: Experts, replacement: ExpertReplacement): Promise<void> {
    this.#checkAlive();
    const { count, gate, up, down, biases } = expertsOf(of);
    checkReplacement(of, { ...replacement, biased: biases !== null });
    const { slot } = replacement;
    const places = [gate, up, down].map((weight) => ({ weight, at: slot }));
    if (biases !== null) {
      const { gateUp, down } = biases;
      for (const at of [slot, count + slot]) places.push({ weight: gateUp, at });
      places.push({ weight: down, at: slot });
    }
    for (const [i, tensor] of firstExpert(replacement.tensors).entries()) {
      const { weight, at } = places[i];
      await this.#uploader.replace(weight, { tensor, firstRow: at * tensor.rows });
    }
  }

  createBuffer(options: { kind: "f32" | "i32"; rows: number; width: number }): Buffer {
    const bytes = options.rows * options.width * 4;
    return new GpuBuffer(options, this.#allocator.allocate("workspace", bytes, "a buffer"));
  }

  createKvCache(options: KvCacheOptions): KvCache {
    return createKvCache(this.#allocator, options);
  }

  createLatentCache(options: LatentCacheOptions): LatentCache {
    return createLatentCache(this.#allocator, options);
  }

  pageBytes(cache: ModelCache, tokens: number): number {
    return pageBytes(cacheOf(cache), tokens);
  }

  async readPage(part: PagePart): Promise<Uint8Array<ArrayBuffer>> {
    const runs = pageRuns({ ...part, cache: cacheOf(part.cache) });
    return await this.#read(runs.map(({ memory, offset, bytes }) => ({ memory, offset, bytes })));
  }

  writePage(part: PagePart, bytes: Uint8Array): void {
    const runs = pageRuns({ ...part, cache: cacheOf(part.cache) });
    const { tokens } = part;
    checkPageBytes(this.pageBytes(part.cache, tokens), { is: bytes.byteLength, tokens });
    const { queue } = this.#gpu.device;
    const data = bytes as Uint8Array<ArrayBuffer>;
    for (const run of runs) queue.writeBuffer(run.memory, run.offset, data, run.at, run.bytes);
  }

  copyPage(part: PagePart, to: number): void {
    const cache = cacheOf(part.cache);
    const from = pageRuns({ ...part, cache });
    const targets = pageRuns({ ...part, cache, page: to });
    if (to === part.page) return;
    // No command copies within one buffer.
    const between = this.#scratchOf("page", pageBytes(cache, PAGE_TOKENS));
    const encoder = this.#gpu.device.createCommandEncoder();
    for (const { memory, offset, at, bytes } of from) {
      encoder.copyBufferToBuffer(memory, offset, between, at, bytes);
    }
    for (const { memory, offset, at, bytes } of targets) {
      encoder.copyBufferToBuffer(between, at, memory, offset, bytes);
    }
    this.#gpu.device.queue.submit([encoder.finish()]);
  }

  write(of: Buffer, data: Float32Array | Int32Array, row = 0): void {
    const { memory, rows, width } = bufferOf(of);
    const offset = row * width;
    if (offset + data.length > rows * width) {
      throw new RangeError(
        `cannot write a buffer: the data's end is value ${offset + data.length}, ` +
          `must be at most ${rows * width}`,
      );
    }
    if (data.length === 0) return;
    this.#gpu.device.queue.writeBuffer(memory, offset * 4, data as Float32Array<ArrayBuffer>);
  }

  record(build: (ops: Ops) => void): Plan {
    return this.recordBy((context) => new GpuRecorder(context), build);
  }

  protected recordBy<Recorder extends GpuRecorder>(
    make: (context: RecorderContext) => Recorder,
    build: (ops: Recorder) => void,
  ): Plan {
    this.#checkAlive();
    const { device } = this.#gpu;
    const recorder = make({
      scratch: (name, bytes) => this.#scratchOf(name, bytes),
      table: (name, words) => this.#tableOf(name, words),
      maxBindings: device.limits.maxStorageBuffersPerShaderStage,
      activations: this.activations,
      packedDot: this.#gpu.packedDot,
      halves: this.#gpu.halves,
    });
    build(recorder);
    const { dispatches, length } = recorder;
    return new GpuPlan(dispatches, { device, kernels: this.#kernels, length });
  }

  submit(...plans: readonly Plan[]): void {
    this.#checkAlive();
    this.#running = true;
    const { device } = this.#gpu;
    if (faultDue(this.#faults, "gpu")) device.destroy();
    const recorded = plans as readonly GpuPlan[];
    if (this.#profiler !== undefined) this.#profiler.run(recorded, device);
    else runPlans(recorded, device);
  }

  async read(
    of: Buffer,
    options: { row?: number; rows?: number; into?: Float32Array } = {},
  ): Promise<Float32Array> {
    const bytes = await this.#read([rangeOf(of, options)]);
    const values = new Float32Array(bytes.buffer);
    if (options.into === undefined) return values;
    options.into.set(values);
    return options.into.subarray(0, values.length);
  }

  async readIntegers(
    of: Buffer,
    options: { row?: number; rows?: number } = {},
  ): Promise<Int32Array> {
    return new Int32Array((await this.#read([rangeOf(of, options)])).buffer);
  }

  memory(): BackendMemory {
    return this.#allocator.used();
  }

  expertTraffic(): readonly ExpertTraffic[] {
    return residentTraffic(this.#experts);
  }

  close(): void {
    this.#closed = true;
    this.#reader.close();
    this.#allocator.close();
    this.#gpu.device.destroy();
  }

  protected allocate(kind: keyof BackendMemory, bytes: number, purpose: string): GPUBuffer {
    return this.#allocator.allocate(kind, bytes, purpose);
  }

  protected async readMemory(memory: GPUBuffer, bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    return await this.#read([{ memory, offset: 0, bytes }]);
  }

  protected writeMemory(
    memory: GPUBuffer,
    values: Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>,
  ): void {
    this.#gpu.device.queue.writeBuffer(memory, 0, values);
  }

  async #read(runs: Parameters<Reader["read"]>[0]): Promise<Uint8Array<ArrayBuffer>> {
    this.#checkAlive();
    try {
      const bytes = await this.#reader.read(runs);
      // What the GPU has computed after it was lost is nothing.
      if (this.#lost === null) return bytes;
    } catch (error) {
      this.#lose((error as Error).message);
    }
    await this.#whetherLost();
    throw this.#lost ?? new BackendLostError("cannot read a buffer: the backend is closed");
  }

  /** Calls to a device that is lost fail in ways of their own, at times before it says that it is lost. */
  async #whetherLost(): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => timer = setTimeout(resolve, LOSS_MS));
    await Promise.race([this.#gpu.device.lost, late]);
    clearTimeout(timer);
  }

  #scratchOf(name: string, bytes: number): GPUBuffer {
    let buffer = this.#scratch.get(name);
    if (buffer === undefined || buffer.size < bytes) {
      buffer = this.#workspace(name, bytes);
      this.#scratch.set(name, buffer);
    }
    return buffer;
  }

  /** Where steps need more than there is, others soon will, so that the backend is given up. */
  #workspace(name: string, bytes: number): GPUBuffer {
    try {
      return this.#allocator.allocate("workspace", bytes, `workspace (${name})`);
    } catch (error) {
      if (!this.#running) throw error;
      this.#lose((error as Error).message);
      throw this.#lost;
    }
  }

  #tableOf(name: string, words: Uint32Array<ArrayBuffer>): GPUBuffer {
    let buffer = this.#tables.get(name);
    if (buffer === undefined) {
      buffer = this.#workspace(name, words.byteLength);
      this.#gpu.device.queue.writeBuffer(buffer, 0, words);
      this.#tables.set(name, buffer);
    }
    return buffer;
  }

  #checkAlive(): void {
    if (this.#lost !== null) throw this.#lost;
  }

  #lose(message: string): void {
    if (this.#closed) return;
    this.#lost ??= new BackendLostError(`cannot compute on the GPU: ${message}`);
  }
}

function rangeOf(
  of: Buffer,
  { row = 0, rows = of.rows - row }: { row?: number; rows?: number },
) {
  if (row < 0 || rows < 0 || row + rows > of.rows) {
    throw new RangeError(
      `cannot read a buffer: the last row is ${row + rows}, must be at most ${of.rows}`,
    );
  }
  const { memory, width } = bufferOf(of);
  return { memory, offset: row * width * 4, bytes: rows * width * 4 };
}
