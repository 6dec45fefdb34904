/**
 * The two forms of latent attention (DeepSeek-V2, section 2.1.2) side by side, for a chunk of rows
 * behind a context. Absorbed: queries are taken to the latents, attention runs over latents, its
 * result is taken to values. Expanded: keys and values of all heads are made of all latents, then
 * attention runs over those. What both do alike (projections of the rows, their own latents) is left
 * out, and so is giving each head its copy of the rotated key, which favours the expanded form.
 */

import {
  type ActivationPrecision,
  type Backend,
  type BatchBuffers,
  type Buffer,
  PAGE_TOKENS,
  type Plan,
  type TensorData,
} from "../backend/backend.ts";
import { createBackend } from "../backend/create.ts";
import type { TensorType } from "../quant/types.ts";
import { madeUp } from "./made_up.ts";
import { table } from "./report.ts";
import { formatSummary, scaled, summarize, type Summary } from "./statistics.ts";

export interface LatentShape {
  readonly name: string;
  readonly heads: number;
  readonly nopeDim: number;
  readonly ropeDim: number;
  readonly valueDim: number;
  readonly latentDim: number;
}

/** V3's other 112 heads would do the same again in both forms; its 16 are the shape of V2-Lite. */
export const LATENT_SHAPES: readonly LatentShape[] = Object.freeze([
  {
    ...{ name: "DeepSeek-V2-Lite; V3's with 16 of 128 heads", heads: 16, latentDim: 512 },
    ...{ nopeDim: 128, ropeDim: 64, valueDim: 128 },
  },
  {
    ...{ name: "tiny_v3_moe", heads: 8, latentDim: 128 },
    ...{ nopeDim: 32, ropeDim: 32, valueDim: 32 },
  },
]);

/** The type of the up projections, in both forms. */
const WEIGHT_TYPE: TensorType = "Q8_0";
const ROWS: readonly number[] = Object.freeze([16, 32, 64, 128, 256, 512]);
const CACHED: readonly number[] = Object.freeze([0, 512, 2048]);
/** A measurement repeats a plan until so much time has passed. */
const MEASUREMENT_MS = 20;

export interface LatentFormsOptions {
  readonly threads: number;
  readonly activations: ActivationPrecision;
  readonly shapes?: readonly LatentShape[];
  /** Rows of a chunk, ascending. */
  readonly rows?: readonly number[];
  /** Positions cached before the chunk. */
  readonly cached?: readonly number[];
  readonly runs: number;
  readonly onProgress?: (line: string) => void;
}

/** One chunk behind one context, in seconds. */
export interface LatentFigures {
  readonly shape: LatentShape;
  readonly threads: number;
  readonly activations: ActivationPrecision;
  readonly rows: number;
  readonly cached: number;
  readonly absorbed: Summary;
  readonly expanded: Summary;
  /** Median of the absorbed form's seconds by the expanded form's. */
  readonly ratio: number;
}

/** Measures both forms by turns; each shape has a backend of its own. */
export async function measureLatentForms(options: LatentFormsOptions): Promise<LatentFigures[]> {
  const { threads, activations, runs, onProgress = () => {} } = options;
  const { shapes = LATENT_SHAPES, rows = ROWS, cached = CACHED } = options;
  const figures: LatentFigures[] = [];
  for (const shape of shapes) {
    const backend = await createBackend({ backend: "wasm", threads, activations });
    try {
      const positions = Math.max(...cached) + Math.max(...rows);
      const forms = await prepare(backend, { shape, positions, rows: Math.max(...rows) });
      for (const before of cached) {
        for (const count of rows) {
          onProgress(`${shape.name}: ${count} rows behind ${before}`);
          const { absorbed, expanded } = forms.record({ rows: count, cached: before });
          const times = { absorbed: [] as number[], expanded: [] as number[] };
          // The first measurement meets code that is not optimised yet.
          for (let run = -1; run < runs; run++) {
            const absorbedSeconds = time(backend, absorbed);
            const expandedSeconds = time(backend, expanded);
            if (run < 0) continue;
            times.absorbed.push(absorbedSeconds);
            times.expanded.push(expandedSeconds);
          }
          const both = {
            absorbed: summarize(times.absorbed)!,
            expanded: summarize(times.expanded)!,
          };
          const ratio = both.absorbed.median / both.expanded.median;
          figures.push({
            ...{ shape, threads, activations, rows: count, cached: before },
            ...both,
            ratio,
          });
        }
      }
    } finally {
      backend.close();
    }
  }
  return figures;
}

/** Uploads weights and makes what plans of any chunk need. */
async function prepare(
  backend: Backend,
  { shape, positions, rows }: { shape: LatentShape; positions: number; rows: number },
) {
  const { heads, nopeDim, ropeDim, valueDim, latentDim } = shape;
  const keyDim = nopeDim + ropeDim;
  const type = WEIGHT_TYPE;
  const upload = (rows: number, cols: number) => backend.upload(madeUp({ type, rows, cols }));
  const queryToLatent = await upload(heads * latentDim, nopeDim);
  const latentToValue = await upload(heads * valueDim, latentDim);
  const latentToKey = await upload(heads * nopeDim, latentDim);
  const latentNorm = { weight: await backend.upload(ones(latentDim)), eps: 1e-6 };
  const pages = Math.ceil(positions / PAGE_TOKENS);
  const size = { type: "f32" as const, layers: 1, pages };
  const latents = backend.createLatentCache({ ...size, latentDim, ropeDim });
  const keys = backend.createKvCache({ ...size, kvHeads: heads, keyDim, valueDim });

  const create = (rows: number, width: number) =>
    filled(backend, backend.createBuffer({ kind: "f32", rows, width }));
  const q = create(rows, heads * keyDim);
  const latentQuery = create(rows, heads * latentDim);
  const attendedLatent = create(rows, heads * latentDim);
  const attended = create(rows, heads * valueDim);
  const cachedRows = create(positions, latentDim);
  const kv = create(positions, latentDim + ropeDim);
  const allQueries = create(positions, heads * keyDim);
  const allKeys = create(positions, heads * keyDim);
  const keyHalves = create(positions, heads * nopeDim);
  const values = create(positions, heads * valueDim);
  const cosSin = create(positions, ropeDim);
  const scale = keyDim ** -0.5;
  const common = { layer: 0, heads, cosSin, pairing: "halves" } as const;
  const all = batchOf(backend, { count: positions, first: 0, pages });
  const rotated = { q: allQueries, nopeDim, kv, latentNorm, cache: latents };
  backend.submit(backend.record((ops) => {
    ops.rotateAndCacheLatent({ ...common, ...rotated, batch: all, rows: positions });
  }));

  return {
    /** Both forms of `rows` rows that follow `cached` positions. */
    record({ rows, cached }: { rows: number; cached: number }): Record<
      "absorbed" | "expanded",
      Plan
    > {
      const batch = batchOf(backend, { count: rows, first: cached, pages });
      const seen = cached + rows;
      const read = { q, heads, scale, layer: 0, batch, rows };
      const absorbed = backend.record((ops) => {
        const query = { x: q, xStride: keyDim, weight: queryToLatent, out: latentQuery };
        ops.headLinear({ ...query, heads, rows });
        ops.latentAttention({
          ...{ ...read, latentQuery, nopeDim, cache: latents, out: attendedLatent },
        });
        const value = { x: attendedLatent, xStride: latentDim, weight: latentToValue };
        ops.headLinear({ ...value, out: attended, heads, rows });
      });
      const expanded = backend.record((ops) => {
        const up = [{ weight: latentToKey, out: keyHalves }, {
          weight: latentToValue,
          out: values,
        }];
        ops.linear({ x: cachedRows, outputs: up, rows: seen });
        const made = { q: allQueries, k: allKeys, v: values, cache: keys };
        ops.rotateAndCache({ ...common, ...made, batch: all, rows: seen });
        ops.attention({ ...read, cache: keys, out: attended });
      });
      return { absorbed, expanded };
    },
  };
}

/** One sequence whose pages lie in order, its rows being positions from `first` on. */
function batchOf(
  backend: Backend,
  { count, first, pages }: { count: number; first: number; pages: number },
): BatchBuffers {
  const create = (rows: number, width: number) =>
    backend.createBuffer({ kind: "i32", rows, width });
  const batch = {
    positions: create(count, 1),
    sequences: create(count, 1),
    pageTables: create(1, pages),
  };
  backend.write(batch.positions, Int32Array.from({ length: count }, (_, i) => first + i));
  backend.write(batch.sequences, new Int32Array(count));
  backend.write(batch.pageTables, Int32Array.from({ length: pages }, (_, i) => i));
  return batch;
}

function filled(backend: Backend, buffer: Buffer): Buffer {
  const { rows, width } = buffer;
  backend.write(buffer, Float32Array.from({ length: rows * width }, (_, i) => Math.sin(i * 1.7)));
  return buffer;
}

function ones(cols: number): TensorData {
  const bytes = new Uint8Array(new Float32Array(cols).fill(1).buffer);
  return {
    ...{ name: "ones", type: "F32", rows: 1, cols },
    read(offset, into) {
      into.set(bytes.subarray(offset, offset + into.length));
      return Promise.resolve();
    },
  };
}

/** Seconds of a run of the plan, on average over some. */
function time(backend: Backend, plan: Plan): number {
  const start = performance.now();
  let times = 0;
  let end = start;
  while (times === 0 || end - start < MEASUREMENT_MS) {
    backend.submit(plan);
    times++;
    end = performance.now();
  }
  return (end - start) / times / 1000;
}

/**
 * Rows from which on the expanded form is faster, between measured numbers by the logarithms of rows
 * and ratios; null where it never is. `figures` are those of one context, by ascending rows.
 */
export function crossing(
  figures: readonly Pick<LatentFigures, "rows" | "ratio">[],
): number | null {
  const first = figures.findLastIndex(({ ratio }) => ratio <= 1) + 1;
  if (first === figures.length) return null;
  if (first === 0) return figures[0].rows;
  const [below, above] = figures.slice(first - 1, first + 1);
  const [low, high] = [Math.log(below.ratio), Math.log(above.ratio)];
  return Math.round(below.rows * (above.rows / below.rows) ** (-low / (high - low)));
}

/** A table for people, and where the forms cross. */
export function formatLatentForms(figures: readonly LatentFigures[]): string {
  const lines: string[] = [];
  const setting = ({ shape, threads, activations }: LatentFigures) =>
    `${shape.name}: ${activations}, ${threads} ${threads === 1 ? "thread" : "threads"}`;
  for (const [name, ofShape] of Map.groupBy(figures, setting)) {
    const rows = ofShape.map(({ rows, cached, absorbed, expanded, ratio }) => [
      String(rows),
      String(cached),
      formatSummary(scaled(absorbed, 1000)),
      formatSummary(scaled(expanded, 1000)),
      ratio.toFixed(2),
    ]);
    const header = ["rows", "behind", "absorbed ms", "expanded ms", "absorbed / expanded"];
    lines.push(name, ...table([header, ...rows]));
    for (const [cached, ofContext] of Map.groupBy(ofShape, ({ cached }) => cached)) {
      const rows = crossing(ofContext);
      const from = rows === null ? "never, as far as measured" : `from about ${rows} rows`;
      lines.push(`behind ${cached} positions the expanded form is faster ${from}`);
    }
    lines.push("");
  }
  return lines.join("\n").trimEnd();
}
