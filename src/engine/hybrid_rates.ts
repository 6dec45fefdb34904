/**
 * What this machine's GPU and CPU do in a second, measured in a moment before a model is loaded: the
 * kernels that will run, on made-up weights. Where a plan's rates come from.
 */

import type { ActivationPrecision, Backend, Buffer, TensorData } from "../backend/backend.ts";
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
  /** Bytes of the experts that are read in turn: more than caches hold. */
  readonly bytes?: number;
  /** Milliseconds of each of the two measurements. */
  readonly milliseconds?: number;
}

const PROBE_BYTES = 96 * 2 ** 20;
const PROBE_MS = 40;
/** Rows whose products are bound by arithmetic. */
const MANY_ROWS = 32;

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
    const rate = (rows: number) => timeExperts(backend, { ...layer, rows, milliseconds });
    const { hidden, intermediate } = probe;
    return {
      threads,
      bytesPerSecond: layer.experts.byteLength / layer.experts.count * await rate(1),
      operationsPerSecond: 2 * 3 * hidden * intermediate * await rate(MANY_ROWS),
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
  const count = Math.max(2 * topK, Math.ceil(bytes / each));
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

/** Choices of experts a second: all rows of a step choose the same ones, those of the next step others. */
async function timeExperts(
  backend: Backend,
  { experts, hidden, topK, rows, milliseconds }:
    & Awaited<ReturnType<typeof uploadExperts>>
    & { rows: number; milliseconds: number },
): Promise<number> {
  const create = (kind: Buffer["kind"], width: number) =>
    backend.createBuffer({ kind, rows, width });
  const [x, out, weights] = [create("f32", hidden), create("f32", hidden), create("f32", topK)];
  const expertIds = create("i32", topK);
  backend.write(x, Float32Array.from({ length: rows * hidden }, (_, i) => Math.sin(i * 1.7)));
  backend.write(weights, new Float32Array(rows * topK).fill(1));
  const plan = backend.record((ops) => {
    const step = { x, experts, expertIds, weights, topK, out, rows };
    ops.experts({ ...step, activation: "silu" });
  });
  let first = 0;
  const run = async () => {
    const chosen = Array.from({ length: topK }, (_, j) => (first + j) % experts.count);
    first = (first + topK) % experts.count;
    backend.write(expertIds, Int32Array.from({ length: rows * topK }, (_, i) => chosen[i % topK]));
    backend.submit(plan);
    await backend.read(out, { rows: 0 });
  };
  // Code is optimised while it runs.
  await repeat(run, milliseconds);
  const { times, seconds } = await repeat(run, milliseconds);
  return times * rows * topK / seconds;
}

async function repeat(run: () => Promise<void>, milliseconds: number) {
  const start = performance.now();
  let times = 0;
  while (performance.now() - start < milliseconds) {
    await run();
    times++;
  }
  return { times, seconds: (performance.now() - start) / 1000 };
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
