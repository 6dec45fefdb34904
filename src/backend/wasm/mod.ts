/**
 * The CPU backend: Rust kernels in WebAssembly, one instance per thread over one shared memory.
 *
 * Ops are recorded as words; `submit` copies them into the shared memory and runs them in Rust on all
 * threads, without JavaScript or messages in between. The thread that calls `submit` computes too.
 */

import { BackendLostError, CapacityError, UnsupportedOpError } from "../../errors.ts";
import {
  type ActivationPrecision,
  type Backend,
  type BackendMemory,
  type Buffer,
  type KvCache,
  type KvCacheOptions,
  type Ops,
  PAGE_TOKENS,
  type Plan,
  type TensorData,
  type Weight,
} from "../backend.ts";
import {
  Arena,
  chooseVariant,
  instantiate,
  type Kernels,
  loadModule,
  type SharedModule,
  type Variant,
} from "./kernels.ts";
import type { WasmBuffer, WasmKvCache, WasmWeight } from "./memory.ts";
import { PlanRecorder, PRECISIONS, type WasmPlan } from "./plan.ts";
import type { ThreadStart } from "./thread.ts";
import { StreamChoice } from "./stream_choice.ts";
import { Uploader } from "./upload.ts";

const MAX_THREADS = 64;

export interface WasmBackendOptions {
  /** Threads that compute, the calling one included; 1 to 64. */
  readonly threads: number;
  readonly activations: ActivationPrecision;
  /** Don't wait for the threads: a worker's own workers take a second to come up in Deno 2.9. */
  readonly joinLate?: boolean;
  /** The build to use; by default the best one that the machine runs. */
  readonly variant?: Variant;
}

/**
 * Starts the threads and makes an empty backend. Throws CapacityError where threads are too many and
 * BackendLostError where one doesn't start. With `joinLate` it returns at once: plans run on the
 * threads that have come by then, with the same results.
 */
export async function createWasmBackend(options: WasmBackendOptions): Promise<Backend> {
  const { threads, activations } = options;
  if (!Number.isInteger(threads) || threads < 1 || threads > MAX_THREADS) {
    throw new CapacityError(
      `cannot start compute threads: threads is ${threads}, must be 1 to ${MAX_THREADS}`,
    );
  }
  const shared = await loadModule(options.variant ?? chooseVariant());
  const kernels = await instantiate(shared);
  const context = kernels.create_context();
  const workers = Array.from(
    { length: threads - 1 },
    () => new Worker(new URL("./thread.ts", import.meta.url), { type: "module" }),
  );
  const backend = new WasmBackend({ kernels, shared, context, workers, threads, activations });
  const start: ThreadStart = { shared, context };
  for (const worker of workers) {
    worker.onerror = (event) => {
      event.preventDefault();
      backend.lose(`cannot compute: a compute thread failed (${event.message})`);
    };
    worker.postMessage(start);
  }
  if (!options.joinLate) await backend.allJoined();
  return backend;
}

class WasmBackend implements Backend {
  readonly name = "wasm";
  readonly threads: number;
  readonly activations: ActivationPrecision;
  readonly #kernels: Kernels;
  readonly #memory: WebAssembly.Memory;
  readonly #arena: Arena;
  readonly #context: number;
  readonly #workers: readonly Worker[];
  readonly #uploader: Uploader;
  readonly #used = { weights: 0, kv: 0 };
  readonly #streams: StreamChoice;
  #lost: BackendLostError | null = null;
  #scratchCols = 0;
  #activationArea = { address: 0, bytes: 0 };
  #planArea = { address: 0, bytes: 0 };

  constructor(
    { kernels, shared, context, workers, threads, activations }: {
      kernels: Kernels;
      shared: SharedModule;
      context: number;
      workers: readonly Worker[];
      threads: number;
      activations: ActivationPrecision;
    },
  ) {
    this.threads = threads;
    this.activations = activations;
    this.#kernels = kernels;
    this.#memory = shared.memory;
    this.#arena = new Arena(shared.memory);
    this.#context = context;
    this.#streams = new StreamChoice((streams) => kernels.set_streams(context, streams));
    this.#workers = workers;
    this.#uploader = new Uploader({
      kernels,
      memory: shared.memory,
      arena: this.#arena,
      activations,
    });
    this.#reserveScratch(1);
  }

  get conversions(): readonly string[] {
    return this.#uploader.conversions;
  }

  async upload(tensor: TensorData): Promise<Weight> {
    const weight = await this.#uploader.upload(tensor);
    this.#used.weights += weight.byteLength;
    this.#reserveScratch(weight.cols);
    return weight;
  }

  createBuffer({ kind, rows, width }: { kind: "f32" | "i32"; rows: number; width: number }) {
    const address = this.#arena.allocate(rows * width * 4, "a buffer");
    const buffer: WasmBuffer = { kind, rows, width, address };
    return buffer;
  }

  createKvCache({ layers, pages, kvHeads, keyDim, valueDim }: KvCacheOptions): KvCache {
    const layerBytes = pages * kvHeads * PAGE_TOKENS * (keyDim + valueDim) * 4;
    const byteLength = layers * layerBytes;
    const address = this.#arena.allocate(byteLength, "the KV cache");
    this.#used.kv += byteLength;
    const cache: WasmKvCache = {
      layers,
      pages,
      kvHeads,
      keyDim,
      valueDim,
      byteLength,
      address,
      layerBytes,
    };
    return cache;
  }

  write(buffer: Buffer, data: Float32Array | Int32Array, row = 0): void {
    const { address, width, rows, kind } = buffer as WasmBuffer;
    const offset = row * width;
    if (offset + data.length > rows * width) {
      throw new UnsupportedOpError(
        `cannot write ${data.length} values at row ${row}: the buffer is ${rows} x ${width}`,
      );
    }
    const start = address + offset * 4;
    if (kind === "f32") new Float32Array(this.#memory.buffer, start, data.length).set(data);
    else new Int32Array(this.#memory.buffer, start, data.length).set(data);
  }

  record(build: (ops: Ops) => void): Plan {
    const recorder = new PlanRecorder({
      activations: this.activations,
      formsOf: (weight: WasmWeight) =>
        this.#kernels.activation_forms(weight.kind, PRECISIONS[this.activations]),
      activationSpace: (shape) => this.#activationSpace(shape),
    });
    build(recorder);
    return recorder.finish();
  }

  submit(plan: Plan): void {
    const { words, length, decodes } = plan as WasmPlan;
    if (this.#planArea.bytes < words.byteLength) {
      const bytes = Math.max(words.byteLength, 1 << 16);
      this.#planArea = { address: this.#arena.allocate(bytes, "a plan"), bytes };
    }
    const { address } = this.#planArea;
    new Uint32Array(this.#memory.buffer, address, words.length).set(words);
    const start = performance.now();
    this.#run(address, length);
    if (decodes) this.#streams.measured(performance.now() - start);
  }

  read(
    buffer: Buffer,
    options: { row?: number; rows?: number; into?: Float32Array } = {},
  ): Promise<Float32Array> {
    const { address, width, rows } = buffer as WasmBuffer;
    const row = options.row ?? 0;
    const count = options.rows ?? rows - row;
    if (row < 0 || row + count > rows) {
      throw new UnsupportedOpError(
        `cannot read rows ${row}..${row + count}: the buffer has ${rows}`,
      );
    }
    const into = options.into?.subarray(0, count * width) ?? new Float32Array(count * width);
    into.set(new Float32Array(this.#memory.buffer, address + row * width * 4, count * width));
    return Promise.resolve(into);
  }

  /** Waits until all threads take part. */
  async allJoined(): Promise<void> {
    while (this.#kernels.joined(this.#context) < this.#workers.length) {
      if (this.#lost !== null) throw this.#lost;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  /** Makes every later submit fail with this message. */
  lose(message: string): void {
    this.#lost ??= new BackendLostError(message);
  }

  /** Runs a plan; after a trap the threads and what they share are lost. */
  #run(address: number, ops: number): void {
    if (this.#lost !== null) throw this.#lost;
    try {
      this.#kernels.run_plan(this.#context, address, ops);
    } catch (error) {
      this.lose(`cannot compute: a kernel failed (${error})`);
      throw this.#lost;
    }
  }

  memory(): BackendMemory {
    const { weights, kv } = this.#used;
    return { weights, kv, workspace: this.#arena.used - weights - kv };
  }

  close(): void {
    if (this.#lost === null) this.#kernels.stop(this.#context);
    for (const worker of this.#workers) worker.terminate();
  }

  #activationSpace({ rows, cols, forms }: { rows: number; cols: number; forms: number }): number {
    const precision = PRECISIONS[this.activations];
    const bytes = rows * this.#kernels.activation_bytes(cols, forms, precision);
    if (this.#activationArea.bytes < bytes) {
      this.#activationArea = { address: this.#arena.allocate(bytes, "activations"), bytes };
    }
    return this.#activationArea.address;
  }

  #reserveScratch(cols: number): void {
    if (cols <= this.#scratchCols) return;
    this.#scratchCols = cols;
    const bytes = Math.ceil(this.#kernels.scratch_bytes(cols) / 64) * 64;
    const address = this.#arena.allocate(bytes * this.threads, "scratch");
    this.#kernels.set_scratch(this.#context, address, bytes);
  }
}
