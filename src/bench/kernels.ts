/**
 * One matrix at a time through the WASM backend, per type of weight: what its kernel does with all
 * else out of the way. Decoding is one row of activations, prefill 128.
 */

import type { ActivationPrecision, Backend, Weight } from "../backend/backend.ts";
import { createBackend } from "../backend/create.ts";
import { rowBytes, TENSOR_TYPES, type TensorType } from "../quant/types.ts";
import { madeUp } from "./made_up.ts";
import { table } from "./report.ts";
import { formatGiga, summarize, type Summary } from "./statistics.ts";

/** [rows, cols] of the matrix that stays in a core's cache, and of those that come from memory. */
const SMALL = { rows: 576, cols: 768 };
const LARGE = { rows: 2048, cols: 2048 };
/** Rows of activations of a step of prefill. */
const PREFILL_ROWS = 128;
const MEASUREMENTS = 9;
const MEASUREMENT_MS = 40;

export interface KernelFigures {
  readonly type: TensorType;
  readonly threads: number;
  readonly activations: ActivationPrecision;
  /** Bytes of weights per second, as the backend holds them. */
  readonly cachedBytesPerSecond: Summary;
  readonly memoryBytesPerSecond: Summary;
  /** Multiply-adds per second. */
  readonly cachedMacsPerSecond: Summary;
  readonly memoryMacsPerSecond: Summary;
  readonly prefillMacsPerSecond: Summary;
}

export interface KernelOptions {
  readonly types: readonly TensorType[];
  readonly threads: number;
  readonly activations: ActivationPrecision;
  /** Bytes of the matrices that come from memory, together; far beyond the last-level cache. */
  readonly memoryBytes?: number;
  readonly measurements?: number;
  readonly onProgress?: (line: string) => void;
}

/** The types that kernels read directly. */
export function kernelTypes(): TensorType[] {
  return (Object.keys(TENSOR_TYPES) as TensorType[]).filter(
    (type) => TENSOR_TYPES[type].kernel !== null,
  );
}

/** Measures each type on a backend of its own. */
export async function measureKernels(options: KernelOptions): Promise<KernelFigures[]> {
  const { threads, activations, memoryBytes = 160 << 20, onProgress = () => {} } = options;
  const figures: KernelFigures[] = [];
  for (const type of options.types) {
    onProgress(`${type}, ${activations}, ${threads} threads`);
    const backend = await createBackend({ backend: "wasm", threads, activations });
    try {
      const run = (shape: Shape) =>
        measureLinear(backend, { ...shape, count: options.measurements ?? MEASUREMENTS });
      const small = await backend.upload(madeUp({ type, ...SMALL }));
      const large: Weight[] = [];
      const copies = Math.max(
        1,
        Math.ceil(memoryBytes / (LARGE.rows * rowBytes(type, LARGE.cols))),
      );
      while (large.length < copies) large.push(await backend.upload(madeUp({ type, ...LARGE })));
      const prefill = run({ weights: large.slice(0, 1), tokens: PREFILL_ROWS });
      const cached = run({ weights: [small], tokens: 1 });
      const streamed = run({ weights: large, tokens: 1 });
      figures.push({
        type,
        threads,
        activations,
        cachedBytesPerSecond: cached.bytes,
        memoryBytesPerSecond: streamed.bytes,
        cachedMacsPerSecond: cached.macs,
        memoryMacsPerSecond: streamed.macs,
        prefillMacsPerSecond: prefill.macs,
      });
    } finally {
      backend.close();
    }
  }
  return figures;
}

interface Shape {
  readonly weights: readonly Weight[];
  /** Rows of activations. */
  readonly tokens: number;
}

function measureLinear(
  backend: Backend,
  { weights, tokens, count }: Shape & { count: number },
): { bytes: Summary; macs: Summary } {
  const [{ rows, cols }] = weights;
  const x = backend.createBuffer({ kind: "f32", rows: tokens, width: cols });
  const out = backend.createBuffer({ kind: "f32", rows: tokens, width: rows });
  backend.write(x, Float32Array.from({ length: tokens * cols }, (_, i) => Math.sin(i * 1.7)));
  // Several ops a plan, so that what a submission costs is no part of a short op's time.
  const repeats = weights.length === 1 && tokens === 1 ? 32 : 1;
  const plan = backend.record((ops) => {
    for (let i = 0; i < repeats; i++) {
      for (const weight of weights) ops.linear({ x, outputs: [{ weight, out }], rows: tokens });
    }
  });
  const bytes = repeats * weights.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const macs = repeats * weights.length * rows * cols * tokens;
  const seconds: number[] = [];
  // The first measurements meet code that is not optimised yet.
  for (let i = -4; i < count; i++) {
    const start = performance.now();
    let times = 0;
    let end = start;
    while (end - start < MEASUREMENT_MS) {
      backend.submit(plan);
      times++;
      end = performance.now();
    }
    if (i >= 0) seconds.push((end - start) / times / 1000);
  }
  return {
    bytes: summarize(seconds.map((time) => bytes / time))!,
    macs: summarize(seconds.map((time) => macs / time))!,
  };
}

/** A table for people. */
export function formatKernels(figures: readonly KernelFigures[]): string {
  const header = [
    "weights",
    "threads",
    "activations",
    "decode, cached GB/s",
    "GMAC/s",
    "decode, memory GB/s",
    "GMAC/s",
    `prefill ${PREFILL_ROWS} GMAC/s`,
  ];
  const rows = figures.map((figure) => [
    figure.type,
    String(figure.threads),
    figure.activations,
    formatGiga(figure.cachedBytesPerSecond),
    formatGiga(figure.cachedMacsPerSecond),
    formatGiga(figure.memoryBytesPerSecond),
    formatGiga(figure.memoryMacsPerSecond),
    formatGiga(figure.prefillMacsPerSecond),
  ]);
  return table([header, ...rows]).join("\n");
}
