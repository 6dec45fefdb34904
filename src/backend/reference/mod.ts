/**
 * The reference backend: plain TypeScript on float32 arrays, weights dequantised when they are
 * uploaded. It is what each op means, meant to be read and compared with, not to be fast.
 */

import process from "node:process";
import { CapacityError } from "../../errors.ts";
import type {
  Backend,
  BackendMemory,
  Buffer,
  ExpertReplacement,
  Experts,
  ExpertTensors,
  ExpertTraffic,
  KvCache,
  KvCacheOptions,
  LatentCache,
  LatentCacheOptions,
  ModelCache,
  Ops,
  PagePart,
  Plan,
  TensorData,
} from "../backend.ts";
import { foreign } from "../op_checks.ts";
import {
  checkExpertTensors,
  checkReplacement,
  firstExpert,
  residentTraffic,
} from "../expert_tensors.ts";
import {
  bufferOf,
  expertsOf,
  floats,
  integers,
  ReferenceBuffer,
  ReferenceExperts,
  ReferenceKvCache,
  ReferenceLatentCache,
  ReferenceWeight,
} from "./memory.ts";
import type { ExpertMatrices } from "./moe.ts";
import { pageLength, readPage, writePage } from "./pages.ts";
import { Recorder } from "./recorder.ts";
import { readValues } from "./upload.ts";

export interface ReferenceBackendOptions {
  /** Bytes that weights, caches and buffers may take together; unlimited by default. */
  readonly maxBytes?: number;
  /** Say that tokens are better chosen here, as if waiting cost something; false where absent. */
  readonly chooses?: boolean;
}

/** Opens a reference backend. */
export function createReferenceBackend(options: ReferenceBackendOptions = {}): Backend {
  return new ReferenceBackend(options);
}

export class ReferencePlan implements Plan {
  readonly steps: readonly (() => void)[];

  constructor(steps: readonly (() => void)[]) {
    this.steps = steps;
  }

  get length(): number {
    return this.steps.length;
  }
}

export class ReferenceBackend implements Backend {
  readonly name: string = "reference";
  readonly threads = 1;
  readonly activations = "f32";
  readonly chooses: boolean;
  /** Exponentials and square roots are the runtime's own. */
  readonly numerics = `reference ${process.versions.v8}`;
  readonly conversions: readonly string[] = [];
  readonly #maxBytes: number;
  readonly #experts: ReferenceExperts[] = [];
  readonly #used = { weights: 0, kv: 0, workspace: 0 };

  constructor(options: ReferenceBackendOptions) {
    this.#maxBytes = options.maxBytes ?? Infinity;
    this.chooses = options.chooses ?? false;
  }

  async upload(tensor: TensorData): Promise<ReferenceWeight> {
    const length = tensor.rows * tensor.cols;
    const values = this.allocate("weights", { length, purpose: tensor.name });
    await readValues(tensor, values);
    return new ReferenceWeight(tensor, values);
  }

  async uploadExperts(tensors: ExpertTensors): Promise<Experts> {
    checkExpertTensors(tensors);
    const { gate, up, down, biases } = tensors;
    const matrices: ExpertMatrices[] = [];
    for (const [e] of gate.entries()) {
      matrices.push({
        gate: await this.upload(gate[e]),
        up: await this.upload(up[e]),
        down: await this.upload(down[e]),
        biases: biases && {
          gate: (await this.upload(biases.gate[e])).values,
          up: (await this.upload(biases.up[e])).values,
          down: (await this.upload(biases.down[e])).values,
        },
      });
    }
    const experts = new ReferenceExperts(tensors, matrices);
    this.addExperts(experts);
    return experts;
  }

  async replaceExpert(of: Experts, replacement: ExpertReplacement): Promise<void> {
    const experts = expertsOf(of);
    const { gate, up, down, biases } = experts[replacement.slot] ?? experts[0];
    checkReplacement(of, { ...replacement, biased: biases !== undefined });
    const vectors = biases === undefined ? [] : [biases.gate, biases.up, biases.down];
    const places = [gate.values, up.values, down.values, ...vectors];
    for (const [i, tensor] of firstExpert(replacement.tensors).entries()) {
      await readValues(tensor, places[i]);
    }
  }

  protected addExperts(experts: ReferenceExperts): void {
    this.#experts.push(experts);
  }

  createBuffer(options: { kind: "f32" | "i32"; rows: number; width: number }): Buffer {
    const length = options.rows * options.width;
    const values = this.allocate("workspace", { length, purpose: "a buffer" });
    return new ReferenceBuffer(
      options,
      options.kind === "f32" ? values : new Int32Array(values.buffer),
    );
  }

  createKvCache(options: KvCacheOptions): KvCache {
    return new ReferenceKvCache(
      options,
      (length) => this.allocate("kv", { length, purpose: "the KV cache" }),
    );
  }

  createLatentCache(options: LatentCacheOptions): LatentCache {
    return new ReferenceLatentCache(
      options,
      (length) => this.allocate("kv", { length, purpose: "the latent cache" }),
    );
  }

  pageBytes(cache: ModelCache, tokens: number): number {
    return pageLength(cache, tokens) * Float32Array.BYTES_PER_ELEMENT;
  }

  // deno-lint-ignore require-await -- a method of the seam: other backends do wait
  async readPage(part: PagePart): Promise<Uint8Array<ArrayBuffer>> {
    return readPage(part);
  }

  writePage(part: PagePart, bytes: Uint8Array): void {
    writePage(part, bytes);
  }

  copyPage(part: PagePart, to: number): void {
    writePage({ ...part, page: to }, readPage(part));
  }

  write(buffer: Buffer, data: Float32Array | Int32Array, row = 0): void {
    const { values, width, rows } = bufferOf(buffer);
    if (data.constructor !== values.constructor) {
      throw new RangeError(`cannot write a buffer: the data is not of its kind, ${buffer.kind}`);
    }
    if (row < 0 || row * width + data.length > values.length) {
      throw new RangeError(
        `cannot write a buffer: the data's end is value ${row * width + data.length}, ` +
          `must be at most ${rows * width}`,
      );
    }
    values.set(data, row * width);
  }

  record(build: (ops: Ops) => void): Plan {
    const steps: (() => void)[] = [];
    build(new Recorder(steps));
    return new ReferencePlan(steps);
  }

  submit(...plans: readonly Plan[]): void {
    for (const plan of plans) {
      if (!(plan instanceof ReferencePlan)) throw foreign("plan");
      for (const step of plan.steps) step();
    }
  }

  // deno-lint-ignore require-await -- a method of the seam: other backends do wait
  async read(
    buffer: Buffer,
    options: { row?: number; rows?: number; into?: Float32Array } = {},
  ): Promise<Float32Array> {
    const [start, end] = rangeOf(buffer, options);
    const values = floats(buffer).subarray(start, end);
    if (options.into === undefined) return values.slice();
    options.into.set(values);
    return options.into.subarray(0, values.length);
  }

  // deno-lint-ignore require-await -- as `read`
  async readIntegers(
    buffer: Buffer,
    options: { row?: number; rows?: number } = {},
  ): Promise<Int32Array> {
    return integers(buffer).slice(...rangeOf(buffer, options));
  }

  memory(): BackendMemory {
    return { ...this.#used };
  }

  expertTraffic(): readonly ExpertTraffic[] {
    return residentTraffic(this.#experts);
  }

  close(): void {
    // Arrays are the garbage collector's; there are no threads.
  }

  protected allocate(
    kind: keyof BackendMemory,
    { length, purpose }: { length: number; purpose: string },
  ): Float32Array<ArrayBuffer> {
    const used = this.#used.weights + this.#used.kv + this.#used.workspace;
    if (used + length * 4 > this.#maxBytes) throw shortage(purpose, length, this.#maxBytes - used);
    try {
      const values = new Float32Array(length);
      this.#used[kind] += values.byteLength;
      return values;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw shortage(purpose, length, undefined);
    }
  }
}

/** Where the values of some rows start and end. */
function rangeOf(
  { rows: all, width }: Buffer,
  { row = 0, rows = all - row }: { row?: number; rows?: number },
): [start: number, end: number] {
  if (row < 0 || rows < 0 || row + rows > all) {
    throw new RangeError(
      `cannot read a buffer: the last row is ${row + rows}, must be at most ${all}`,
    );
  }
  return [row * width, (row + rows) * width];
}

function shortage(purpose: string, length: number, left: number | undefined): CapacityError {
  return new CapacityError(
    `cannot allocate ${purpose}: it needs ${length * 4} bytes, ` +
      `must fit ${left === undefined ? "one array of this runtime" : `the ${left} bytes left`}`,
  );
}
