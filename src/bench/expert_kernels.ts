/**
 * The routed experts of mixture-of-experts layers alone, through the WASM backend: one token's chosen
 * experts from memory, beside what a plain loop reads, and many tokens an expert, beside what a plain
 * loop of dot products does. Both loops run in turn with the measurements.
 */

import type { ActivationPrecision, Backend, Buffer, Experts, Plan } from "../backend/backend.ts";
import { createBackend } from "../backend/create.ts";
import { rowBytes, type TensorType } from "../quant/types.ts";
import { Ceilings } from "./ceilings.ts";
import { madeUp } from "./made_up.ts";
import { percent, quotient, table } from "./report.ts";
import { formatGiga, summarize, type Summary } from "./statistics.ts";

/** The shape of `make_gguf.py`'s files: small experts, as DeepSeek's are. */
const SHAPE = { hidden: 1024, intermediate: 512, experts: 32, topK: 4 };
/** Tokens that choose each expert in a step of prefill. */
const TOKENS_PER_EXPERT = 64;
const MEASUREMENTS = 9;
const MEASUREMENT_MS = 60;

export interface ExpertFigures {
  readonly type: TensorType;
  readonly threads: number;
  readonly activations: ActivationPrecision;
  /** Bytes per second that a plain loop reads. */
  readonly bandwidth: Summary;
  /** int8 multiply-adds per second of a plain loop; absent without relaxed SIMD. */
  readonly multiplyAdds?: Summary;
  /** Bytes of chosen experts per second, as the backend holds them, one token a step. */
  readonly decodeBytesPerSecond: Summary;
  /** Multiply-adds per second with TOKENS_PER_EXPERT tokens an expert. */
  readonly prefillMacsPerSecond: Summary;
  /** The same where all those tokens of a step choose one expert. */
  readonly hotMacsPerSecond: Summary;
}

export interface ExpertKernelOptions {
  readonly types: readonly TensorType[];
  readonly threads: number;
  readonly activations: ActivationPrecision;
  /** Bytes of all experts, as a file has them; more than the caches hold. */
  readonly memoryBytes?: number;
  readonly measurements?: number;
  /** Memory that each measuring thread reads over. */
  readonly probeBytes?: number;
  readonly onProgress?: (line: string) => void;
}

/** Measures each type on a backend of its own. */
export async function measureExpertKernels(options: ExpertKernelOptions): Promise<ExpertFigures[]> {
  const { threads, activations, onProgress = () => {} } = options;
  const ceilings = await Ceilings.open({ threads, memoryBytes: options.probeBytes });
  try {
    const figures: ExpertFigures[] = [];
    for (const type of options.types) {
      onProgress(`experts of ${type}, ${activations}, ${threads} threads`);
      const backend = await createBackend({ backend: "wasm", threads, activations });
      try {
        figures.push({
          type,
          threads,
          activations,
          ...await measureType(backend, { ...options, type, ceilings }),
        });
      } finally {
        backend.close();
      }
    }
    return figures;
  } finally {
    ceilings.close();
  }
}

async function measureType(
  backend: Backend,
  options: ExpertKernelOptions & { type: TensorType; ceilings: Ceilings },
) {
  const { type, ceilings, memoryBytes = 640 << 20, measurements = MEASUREMENTS } = options;
  const { hidden, intermediate, experts: count, topK } = SHAPE;
  const expertBytes = 2 * intermediate * rowBytes(type, hidden) +
    hidden * rowBytes(type, intermediate);
  const layers: Experts[] = [];
  while (layers.length === 0 || layers.length * count * expertBytes < memoryBytes) {
    layers.push(await uploadLayer(backend, { type, layer: layers.length }));
  }
  const balanced = TOKENS_PER_EXPERT * count / topK;
  // Each token of a step and of the next ones chooses others, until all have been chosen equally often.
  const spread = (token: number) =>
    Array.from({ length: topK }, (_, j) => (token + j * count / topK) % count);
  const first = layers.slice(0, 1);
  const decode = new Work(backend, { layers, tokens: 1, choose: spread });
  const prefill = new Work(backend, { layers: first, tokens: balanced, choose: spread });
  const hot = new Work(backend, {
    layers: first,
    tokens: TOKENS_PER_EXPERT,
    choose: (token) => [Math.floor(token / TOKENS_PER_EXPERT) % count],
  });
  const bandwidth: number[] = [];
  const multiplyAdds: number[] = [];
  const seconds = { decode: [] as number[], prefill: [] as number[], hot: [] as number[] };
  // The first measurements meet code that is not optimised yet.
  for (let i = -3; i < measurements; i++) {
    const times = { decode: decode.time(), prefill: prefill.time(), hot: hot.time() };
    if (i < 0) continue;
    bandwidth.push(await ceilings.bandwidth());
    const rate = await ceilings.multiplyAdds();
    if (rate !== undefined) multiplyAdds.push(rate);
    seconds.decode.push(times.decode);
    seconds.prefill.push(times.prefill);
    seconds.hot.push(times.hot);
  }
  const bytes = layers.reduce((sum, { byteLength }) => sum + byteLength / count * topK, 0);
  const macs = (choices: number) => choices * 3 * hidden * intermediate;
  const rates = (amount: number, seconds: readonly number[]) =>
    summarize(seconds.map((time) => amount / time))!;
  return {
    bandwidth: summarize(bandwidth)!,
    multiplyAdds: summarize(multiplyAdds),
    decodeBytesPerSecond: rates(bytes, seconds.decode),
    prefillMacsPerSecond: rates(macs(balanced * topK), seconds.prefill),
    hotMacsPerSecond: rates(macs(TOKENS_PER_EXPERT), seconds.hot),
  };
}

function uploadLayer(
  backend: Backend,
  { type, layer }: { type: TensorType; layer: number },
): Promise<Experts> {
  const { hidden, intermediate, experts } = SHAPE;
  const matrices = (rows: number, cols: number) =>
    Array.from({ length: experts }, () => madeUp({ type, rows, cols }));
  return backend.uploadExperts({
    layer,
    gate: matrices(intermediate, hidden),
    up: matrices(intermediate, hidden),
    down: matrices(hidden, intermediate),
  });
}

/** Layers of experts one after the other, for so many tokens. */
class Work {
  readonly #backend: Backend;
  readonly #plan: Plan;
  readonly #expertIds: Buffer;
  readonly #choose: (token: number) => readonly number[];
  /** Tokens of all steps so far. */
  #tokens = 0;

  constructor(
    backend: Backend,
    { layers, tokens, choose }: {
      layers: readonly Experts[];
      /** Of a step. */
      tokens: number;
      /** The experts of a token, counted over all steps. */
      choose: (token: number) => readonly number[];
    },
  ) {
    const { hidden } = SHAPE;
    const topK = choose(0).length;
    this.#backend = backend;
    this.#choose = choose;
    const create = (kind: Buffer["kind"], width: number) =>
      backend.createBuffer({ kind, rows: tokens, width });
    const x = create("f32", hidden);
    const out = create("f32", hidden);
    const weights = create("f32", topK);
    const expertIds = create("i32", topK);
    this.#expertIds = expertIds;
    backend.write(x, Float32Array.from({ length: tokens * hidden }, (_, i) => Math.sin(i * 1.7)));
    backend.write(weights, new Float32Array(tokens * topK).fill(1 / topK));
    this.#plan = backend.record((ops) => {
      for (const experts of layers) {
        ops.experts({
          ...{ x, experts, expertIds, weights, topK, out },
          ...{ activation: "silu", rows: tokens },
        });
      }
    });
  }

  /** Seconds of a step, on average over some. */
  time(): number {
    const start = performance.now();
    let times = 0;
    let end = start;
    while (end - start < MEASUREMENT_MS) {
      const { rows } = this.#expertIds;
      const ids = Array.from({ length: rows }, (_, row) => this.#choose(this.#tokens + row));
      this.#tokens += rows;
      this.#backend.write(this.#expertIds, Int32Array.from(ids.flat()));
      this.#backend.submit(this.#plan);
      times++;
      end = performance.now();
    }
    return (end - start) / times / 1000;
  }
}

/** A table for people. */
export function formatExpertKernels(figures: readonly ExpertFigures[]): string {
  const header = [
    "experts",
    "threads",
    "activations",
    "plain loop GB/s",
    "GMAC/s",
    "1 token GB/s",
    "of bandwidth",
    `${TOKENS_PER_EXPERT} tokens an expert GMAC/s`,
    "of int8",
    "all at one expert GMAC/s",
    "of int8",
  ];
  const rows = figures.map((figure) => {
    const { bandwidth, multiplyAdds, decodeBytesPerSecond, prefillMacsPerSecond } = figure;
    return [
      figure.type,
      String(figure.threads),
      figure.activations,
      formatGiga(bandwidth),
      formatGiga(multiplyAdds),
      formatGiga(decodeBytesPerSecond),
      percent(quotient(decodeBytesPerSecond.median, bandwidth.median)),
      formatGiga(prefillMacsPerSecond),
      percent(quotient(prefillMacsPerSecond.median, multiplyAdds?.median)),
      formatGiga(figure.hotMacsPerSecond),
      percent(quotient(figure.hotMacsPerSecond.median, multiplyAdds?.median)),
    ];
  });
  return table([header, ...rows]).join("\n");
}
