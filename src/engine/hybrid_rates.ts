/**
 * What this machine's GPU and CPU do in a second, measured in a moment before a model is loaded: the
 * kernels that will run, on made-up weights. Where a plan's rates come from.
 */

import type { ActivationPrecision, Backend, Buffer, Plan, TensorData } from "../backend/backend.ts";
import type { KernelTime } from "../backend/webgpu/profiler.ts";
import type { Rates } from "../experts/step_time.ts";
import { rowBytes, TENSOR_TYPES, type TensorType } from "../quant/types.ts";

/** What Deno 2.9 waits for anything that a GPU computes: it looks every ten milliseconds. */
export const CROSSING_SECONDS = 0.011;

/** Of an NVIDIA H200 through Deno, see docs/webgpu.md; for GPUs that have no clock. */
export const KNOWN_DEVICE: Rates["device"] = Object.freeze({
  bytesPerSecond: 2.5e12,
  operationsPerSecond: 30e12,
  layerSeconds: 190e-6,
});

export interface HostProbe {
  /** Of the experts' weights. */
  readonly type: TensorType;
  readonly hidden: number;
  readonly intermediate: number;
  /** Experts a row, which threads share among each other. */
  readonly topK: number;
  readonly threads: number;
  readonly activations: ActivationPrecision;
  /** Bytes of the experts that are read in turn, where those of a plan are more: more than caches hold. */
  readonly bytes?: number;
  /** Milliseconds of each of the two measurements. */
  readonly milliseconds?: number;
}

const PROBE_BYTES = 256 * 2 ** 20;
const PROBE_MS = 40;
/** Rows whose products are bound by arithmetic. */
const MANY_ROWS = 32;
/** Ops of a plan in which submitting it is little. */
const PLAN_OPS = 8;
const RESTS = 7;

/**
 * Experts of one row and of many, on the WASM kernels with all threads. It takes about a second, most of it
 * for threads to come up.
 */
export async function measureHost(shape: HostProbe): Promise<Rates["host"]> {
  const probe = { ...shape, ...wholeBlocks(shape) };
  const { threads, activations, milliseconds = PROBE_MS } = probe;
  const { createWasmBackend } = await import("../backend/wasm/mod.ts");
  const backend = await createWasmBackend({ threads, activations });
  try {
    const layer = await uploadExperts(backend, probe);
    const work = (rows: number, ops: number) => new Work(backend, { ...layer, rows, ops });
    const { hidden, intermediate, topK } = probe;
    const one = await work(1, PLAN_OPS).seconds(milliseconds) / PLAN_OPS;
    const many = await work(MANY_ROWS, 1).seconds(milliseconds);
    const alone = await work(1, 1).secondsAfterRest();
    const expertBytes = layer.experts.byteLength / layer.experts.count;
    return {
      threads,
      bytesPerSecond: topK * expertBytes / one,
      operationsPerSecond: 2 * 3 * hidden * intermediate * MANY_ROWS * topK / many,
      roundSeconds: Math.max(0, alone - one),
    };
  } finally {
    backend.close();
  }
}

/** Rates are a byte's and an operation's: rows may as well be whole blocks of the type. */
function wholeBlocks({ type, hidden, intermediate }: HostProbe) {
  const { blockValues } = TENSOR_TYPES[type];
  const round = (cols: number) => Math.ceil(cols / blockValues) * blockValues;
  return { hidden: round(hidden), intermediate: round(intermediate) };
}

async function uploadExperts(
  backend: Backend,
  { type, hidden, intermediate, topK, bytes = PROBE_BYTES }: HostProbe,
) {
  const each = 2 * intermediate * rowBytes(type, hidden) + hidden * rowBytes(type, intermediate);
  const count = Math.max(2 * topK, Math.min(PLAN_OPS * topK, Math.ceil(bytes / each)));
  const matrices = (rows: number, cols: number) =>
    Array.from({ length: count }, () => plainTensor({ type, rows, cols }));
  const experts = await backend.uploadExperts({
    layer: 0,
    gate: matrices(intermediate, hidden),
    up: matrices(intermediate, hidden),
    down: matrices(hidden, intermediate),
  });
  return { experts, hidden, topK };
}

/** Steps of a layer's experts, once or some times behind each other; each op reads others than the one before. */
class Work {
  readonly #backend: Backend;
  readonly #plan: Plan;
  readonly #out: Buffer;

  constructor(
    backend: Backend,
    { experts, hidden, topK, rows, ops }:
      & Awaited<ReturnType<typeof uploadExperts>>
      & { rows: number; ops: number },
  ) {
    const create = (kind: Buffer["kind"], width: number) =>
      backend.createBuffer({ kind, rows, width });
    const [x, out, weights] = [create("f32", hidden), create("f32", hidden), create("f32", topK)];
    backend.write(x, Float32Array.from({ length: rows * hidden }, (_, i) => Math.sin(i * 1.7)));
    backend.write(weights, new Float32Array(rows * topK).fill(1 / topK));
    const choices = Array.from({ length: ops }, (_, op) => {
      const expertIds = create("i32", topK);
      const ids = Array.from({ length: topK }, (_, j) => (op * topK + j) % experts.count);
      backend.write(expertIds, Int32Array.from({ length: rows * topK }, (_, i) => ids[i % topK]));
      return expertIds;
    });
    this.#backend = backend;
    this.#out = out;
    this.#plan = backend.record((ops) => {
      for (const expertIds of choices) {
        const step = { x, experts, expertIds, weights, topK, out, rows };
        ops.experts({ ...step, activation: "silu" });
      }
    });
  }

  /** Of a step, one behind the other. */
  async seconds(milliseconds: number): Promise<number> {
    // Code is optimised while it runs.
    await this.#repeat(milliseconds);
    return await this.#repeat(milliseconds);
  }

  /** Of a step, after a pause in which threads go to sleep: the median of a few. */
  async secondsAfterRest(): Promise<number> {
    const all: number[] = [];
    for (let i = 0; i < RESTS; i++) {
      await new Promise((resolve) => setTimeout(resolve, CROSSING_SECONDS * 1000));
      all.push(await this.#repeat(0));
    }
    return all.sort((a, b) => a - b)[RESTS >> 1];
  }

  async #repeat(milliseconds: number): Promise<number> {
    const start = performance.now();
    let times = 0;
    do {
      this.#backend.submit(this.#plan);
      await this.#backend.read(this.#out, { rows: 1 });
      times++;
    } while (performance.now() - start < milliseconds);
    return (performance.now() - start) / 1000 / times;
  }
}

/** A product of a matrix and some rows. */
interface Product {
  readonly rows: number;
  readonly cols: number;
  readonly tokens: number;
  /** Products one behind the other, each of which waits for the one before; 1 where absent. */
  readonly length?: number;
}

/** Matrices that are read, from a few MB on; the last one is larger than caches. */
const READ: readonly Product[] = [256, 2048, 16384].map((rows) => ({
  rows,
  cols: 4096,
  tokens: 1,
}));
/** Products that are computed, from a few million operations on. */
const MULTIPLIED: readonly Product[] = [[256, 64], [1024, 256], [4096, 512]]
  .map(([rows, tokens]) => ({ rows, cols: 1024, tokens }));
/** A layer's small products. */
const CHAIN: Product = { rows: 1024, cols: 1024, tokens: 1, length: 16 };
/** Larger ones are left out where one has taken so long. */
const ENOUGH_SECONDS = 0.0005;
const TIMES = 3;

/** What the probe runs on: a GPU's backend whose kernels are timed. */
export interface TimedDevice {
  readonly backend: Backend;
  /** Times since the last call; null where the GPU has no clock. */
  readonly take: (() => Promise<readonly KernelTime[]>) | null;
}

/** Opens the GPU for the probe; throws CapacityError where there is none. */
export async function openTimedDevice(): Promise<TimedDevice> {
  const { findAdapter } = await import("../backend/webgpu/device.ts");
  const { createWebGpuBackend } = await import("../backend/webgpu/mod.ts");
  const adapter = await findAdapter();
  if (adapter?.features.has("timestamp-query") !== true) {
    return { backend: await createWebGpuBackend(), take: null };
  }
  const { Profiler } = await import("../backend/webgpu/profiler.ts");
  const profiler = new Profiler();
  return { backend: await createWebGpuBackend({ profiler }), take: () => profiler.take() };
}

/**
 * A GPU's reads, products and waits, the shortest of a few measurements each. It takes some tenths of a
 * second, most of it for compiling kernels.
 */
export async function measureDevice(
  { backend, take }: TimedDevice,
): Promise<Pick<Rates, "device" | "crossingSeconds">> {
  const crossingSeconds = await timeCrossing(backend);
  if (take === null) return { device: KNOWN_DEVICE, crossingSeconds };
  const seconds = (product: Product) => timeProduct(product, { backend, take });
  const largest = async (products: readonly Product[]) => {
    let last = { product: products[0], seconds: 0 };
    for (const product of products) {
      last = { product, seconds: await seconds(product) };
      if (last.seconds >= ENOUGH_SECONDS) break;
    }
    return last;
  };
  const read = await largest(READ);
  const many = await largest(MULTIPLIED);
  return {
    device: {
      bytesPerSecond: read.product.rows * rowBytes("Q8_0", read.product.cols) / read.seconds,
      operationsPerSecond: 2 * many.product.rows * many.product.cols * many.product.tokens /
        many.seconds,
      layerSeconds: await seconds(CHAIN),
    },
    crossingSeconds,
  };
}

async function timeProduct(
  { rows, cols, tokens, length = 1 }: Product,
  { backend, take }: { backend: Backend; take: NonNullable<TimedDevice["take"]> },
): Promise<number> {
  const weight = await backend.upload(plainTensor({ type: "Q8_0", rows, cols }));
  const create = (width: number) => backend.createBuffer({ kind: "f32", rows: tokens, width });
  const [x, out] = [create(cols), create(rows)];
  const plan = backend.record((ops) => {
    for (let i = 0; i < length; i++) {
      const [from, to] = i % 2 === 0 ? [x, out] : [out, x];
      ops.linear({ x: from, outputs: [{ weight, out: to }], rows: tokens });
    }
  });
  return await shortest(async () => {
    backend.submit(plan);
    await backend.read(out, { rows: 1 });
    return (await take()).reduce((sum, time) => sum + time.seconds, 0);
  });
}

/** What reading a number takes that nothing has to be computed for. */
async function timeCrossing(backend: Backend): Promise<number> {
  const buffer = backend.createBuffer({ kind: "i32", rows: 1, width: 1 });
  return await shortest(async () => {
    const start = performance.now();
    backend.write(buffer, Int32Array.of(1));
    await backend.readIntegers(buffer);
    return (performance.now() - start) / 1000;
  });
}

/** The first run compiles, and doesn't count. */
async function shortest(measure: () => Promise<number>): Promise<number> {
  await measure();
  let best = Infinity;
  for (let i = 0; i < TIMES; i++) best = Math.min(best, await measure());
  return best;
}

/** A matrix whose bytes are all 0x11: numbers of every type, none of them zero, subnormal or infinite. */
function plainTensor(
  { type, rows, cols }: { type: TensorType; rows: number; cols: number },
): TensorData {
  return {
    ...{ name: `${type} ${rows} x ${cols}`, type, rows, cols },
    read(_offset, into) {
      into.fill(0x11);
      return Promise.resolve();
    },
  };
}
