/**
 * The GPU's kernels for products one at a time, for `deno task bench --backend webgpu --kernels` and with
 * flags of its own: `deno run -A src/bench/webgpu_kernels.ts [--small]
 * [--bytes N] [--types A,B] [--activations f32|q16|q8] [--sweep] [--only matrices,..]`. Weights are made up and far larger than
 * caches. Rates are of bytes of weights as they lie in GPU memory, beside what a kernel reads that does
 * nothing else. The last line is JSON.
 */

import { BUILTINS, type Dispatch, WORKGROUP } from "../backend/webgpu/kernel.ts";
import type { GpuWeight } from "../backend/webgpu/memory.ts";
import { shapeRows, shapeThreads, shapeTokens } from "../backend/webgpu/ops/block_shapes.ts";
import { useHalves } from "../backend/webgpu/ops/half_products.ts";
import { halfBytes } from "../backend/webgpu/ops/half_rows.ts";
import { halfShapes } from "../backend/webgpu/ops/half_shapes.ts";
import { halfMatrixMatrix } from "../backend/webgpu/ops/half_tiles.ts";
import { integerMatrixMatrix } from "../backend/webgpu/ops/integer_tiles.ts";
import { integersFor } from "../backend/webgpu/ops/integer_products.ts";
import { integerShapes } from "../backend/webgpu/ops/integer_shapes.ts";
import { quantizedBytes } from "../backend/webgpu/ops/quantize.ts";
import { matrixMatrix } from "../backend/webgpu/ops/matrix_matrix.ts";
import {
  canNorm,
  matrixVector,
  VECTOR_ROWS,
  type VectorShape,
} from "../backend/webgpu/ops/matrix_vector.ts";
import { type Input, lanesOf, type Slice } from "../backend/webgpu/ops/products.ts";
import {
  groupThreads,
  shapesFor,
  tileRows,
  tileTokens,
} from "../backend/webgpu/ops/tile_shapes.ts";
import { formatOf } from "../backend/webgpu/weights/formats.ts";
import { rowQuantWords } from "../backend/webgpu/weights/format.ts";
import type { ActivationPrecision } from "../backend/backend.ts";
import {
  choiceFlag,
  type FlagTable,
  helpText,
  listFlag,
  parseFlags,
  sizeFlag,
  switchFlag,
} from "../cli/flags.ts";
import { TENSOR_TYPES, type TensorType } from "../quant/types.ts";
import { GpuTimer } from "./gpu_timer.ts";
import { percent } from "./report.ts";
import { SOFTWARE_WARNING } from "./step_report.ts";
import { threeDigits } from "./statistics.ts";

/** What is measured: matrices times few rows, times many, and those of a model's layer. */
const PARTS = ["vectors", "matrices", "layer"] as const;

const FLAGS = {
  small: switchFlag({ help: "sizes for a software adapter; shows that kernels run, not how fast" }),
  sweep: switchFlag({ help: "also measure every way to share the work" }),
  activations: choiceFlag({
    help: "precision of activations, which decides how kernels multiply",
    words: ["f32", "q16", "q8"],
    fallback: "f32",
  }),
  only: listFlag({
    help: "less than everything: matrices times few rows, times many, those of a model's layer",
    placeholder: "PART,PART",
    must: `some of ${PARTS.join(", ")}`,
    accepts: (word) => PARTS.some((part) => part === word),
  }),
  bytes: sizeFlag({ help: "weights of a matrix times a vector", shown: "1GB" }),
  types: listFlag({
    help: "types of weights",
    placeholder: "TYPE,TYPE",
    must: "names of types that a kernel reads",
    accepts: (word) => Object.keys(TENSOR_TYPES).includes(word),
  }),
} satisfies FlagTable;

/** Rows of activations up to which a sweep of tiles shows products with vectors too. */
const SWEEP_VECTORS = 64;

/** How large things are. */
interface Sizes {
  readonly bytes: number;
  /** Columns of the matrix that is multiplied with a vector. */
  readonly cols: number;
  /** Rows, columns and tokens of the product of matrices. */
  readonly square: number;
  /** `[hidden, intermediate, width of keys and values, vocabulary]` of a model. */
  readonly model: readonly [number, number, number, number];
  readonly prompt: number;
}

const LARGE: Sizes = {
  bytes: 1 << 30,
  cols: 4096,
  square: 4096,
  // DeepSeek-R1-Distill-Qwen-1.5B.
  model: [1536, 8960, 256, 151936],
  prompt: 2048,
};
const SMALL: Sizes = {
  bytes: 1 << 20,
  cols: 1024,
  square: 256,
  model: [256, 512, 64, 1024],
  prompt: 96,
};

/** One measurement. */
export interface Figure {
  readonly name: string;
  readonly type?: TensorType;
  /** Rows of activations. */
  readonly tokens?: number;
  readonly seconds: number;
  /** Bytes of weights, and multiplications and additions. */
  readonly bytes: number;
  readonly operations?: number;
}

/** What is multiplied. */
interface Product {
  readonly weight: GpuWeight;
  readonly input: Input;
  readonly slices: readonly Slice[];
  /** Memory that is its own. */
  readonly memory: readonly GPUBuffer[];
}

class Bench {
  readonly figures: Figure[] = [];
  readonly #timer: GpuTimer;
  readonly #sizes: Sizes;
  readonly #activations: ActivationPrecision;
  readonly #onLine: (line: string) => void;
  /** Bytes that a plain kernel reads in a second. */
  #bandwidth = NaN;

  constructor(
    timer: GpuTimer,
    { sizes, activations, onLine }: {
      sizes: Sizes;
      activations: ActivationPrecision;
      onLine: (line: string) => void;
    },
  ) {
    this.#timer = timer;
    this.#activations = activations;
    this.#sizes = sizes;
    this.#onLine = onLine;
  }

  async bandwidth(): Promise<void> {
    const bytes = Math.min(this.#sizes.bytes, this.#timer.gpu.maxBinding) & ~0xffff;
    const x = this.#timer.floats(bytes / 4, { zeros: true });
    const out = this.#timer.floats(4);
    const seconds = await this.#timer.seconds([reading({ x, out, bytes })]);
    this.#bandwidth = bytes / seconds;
    this.#timer.free(x, out);
    this.#add({ name: "plain reads", seconds, bytes });
  }

  /** A large matrix times one row and times some. */
  async vectors(type: TensorType, { sweep }: { sweep: boolean }): Promise<void> {
    const { cols, bytes } = this.#sizes;
    const format = formatOf(type, { exact: false, cols });
    const rowBytes = 4 * (rowQuantWords(format, cols) + format.scaleWords(cols));
    const weight = await this.#timer.weight({ type, rows: Math.floor(bytes / rowBytes), cols });
    for (const tokens of [1, 2, 4, VECTOR_ROWS]) {
      const product = this.#product(weight, { tokens });
      const { input, slices } = product;
      await this.#measure("matrix-vector", product, matrixVector(input, slices));
      if (!sweep || tokens === 2) continue;
      for (const shape of vectorShapes(tokens, input)) {
        const { rowsEach, blocksEach, neighbours } = shape;
        const name = `.. ${rowsEach} rows, ${blocksEach} blocks, ${neighbours} neighbours`;
        await this.#measure(name, product, matrixVector(input, slices, { shape }));
      }
      this.#timer.free(...product.memory);
    }
    this.#timer.free(weight);
  }

  /** A square matrix times as many rows, and the two largest of a model times some. */
  async matrices(type: TensorType, { sweep }: { sweep: boolean }): Promise<void> {
    const { square, model: [hidden, intermediate], prompt } = this.#sizes;
    const cases = [
      { rows: square, cols: square, tokens: [square] },
      ...(sweep
        ? [
          { rows: intermediate * 2, cols: hidden, tokens: [16, 64, prompt] },
          { rows: hidden, cols: intermediate, tokens: [16, 64, prompt] },
        ]
        : []),
    ];
    for (const { rows, cols, tokens: counts } of cases) {
      const weight = await this.#timer.weight({ type, rows, cols });
      for (const tokens of counts) {
        const product = this.#product(weight, { tokens });
        const { input, slices } = product;
        await this.#measure(`${rows} x ${cols}`, product, tiles(product));
        if (sweep) {
          const few = tokens <= SWEEP_VECTORS
            ? [{ name: "rows by eights", dispatches: matrixVector(input, slices) }]
            : [];
          for (const { name, dispatches } of [...few, ...tilesOfAllShapes(product)]) {
            await this.#measure(`.. ${name}`, product, dispatches);
          }
        }
        this.#timer.free(...product.memory);
      }
      this.#timer.free(weight);
    }
  }

  /** The products of a layer of a model and its output matrix, as they are recorded, from memory each time. */
  async layer(type: TensorType): Promise<void> {
    const { model: [hidden, intermediate, kv, vocabulary], prompt, bytes } = this.#sizes;
    const products = [
      { name: "q, k, v", outputs: [hidden, kv, kv], cols: hidden },
      { name: "attention's output", outputs: [hidden], cols: hidden },
      { name: "gate and up", outputs: [intermediate], cols: hidden, matrices: 2 },
      { name: "down", outputs: [hidden], cols: intermediate },
      { name: "vocabulary", outputs: [vocabulary], cols: hidden },
    ];
    for (const { name, outputs, cols, matrices = 1 } of products) {
      const rows = matrices * outputs.reduce((sum, count) => sum + count, 0);
      const copies = Math.max(1, Math.min(16, Math.ceil(bytes / 4 / rows / cols)));
      const weight = await this.#timer.weight({ type, rows: copies * rows, cols });
      const found = Math.floor(weight.rows / rows);
      const norm = { weight: await this.#timer.weight({ type: "F32", rows: 1, cols }), eps: 1e-6 };
      for (const tokens of name === "vocabulary" ? [1, 64] : [1, VECTOR_ROWS, 64, prompt]) {
        const many = Array.from(
          { length: found },
          (_, copy) => this.#product(weight, { tokens, outputs, matrices, offset: copy * rows }),
        );
        const dispatches = many.flatMap(({ input, slices }) =>
          tokens <= VECTOR_ROWS ? matrixVector(input, slices) : tiles({ input, slices })
        );
        await this.#measure(name, many[0], dispatches, found);
        if (many[0].input.integers === undefined && canNorm(many[0].input, many[0].slices)) {
          const norming = many.flatMap(({ input, slices }) =>
            matrixVector(input, slices, { norm })
          );
          await this.#measure(`${name}, normed in it`, many[0], norming, found);
        }
        for (const { memory } of many) this.#timer.free(...memory);
      }
      this.#timer.free(weight);
    }
  }

  /** Rows of a weight from `offset` on, times made-up rows: output by output, with all matrices of each. */
  #product(
    weight: GpuWeight,
    { tokens, outputs = [weight.rows], matrices = 1, offset = 0 }: {
      tokens: number;
      outputs?: readonly number[];
      matrices?: number;
      offset?: number;
    },
  ): Product {
    const { cols, parts: [part] } = weight;
    const { packedDot, halves } = this.#timer.gpu;
    const precision = { activations: this.#activations, packedDot, halves };
    const integers = integersFor(precision, [{ weight }]);
    const rounded = halfBytes({ rows: tokens, cols });
    const { x, factors } = useHalves(precision, [{ weight }])
      ? {
        x: this.#timer.halves(rounded.memory / 2),
        factors: this.#timer.floats(rounded.factors / 4),
      }
      : {
        x: this.#timer.floats(
          integers ? quantizedBytes({ rows: tokens, cols, ...integers }) / 4 : tokens * cols,
        ),
        factors: undefined,
      };
    let row = offset;
    const slices = outputs.map((rows): Slice => {
      const list = Array.from({ length: matrices }, (_, m) => ({
        weight,
        part,
        offset: row + m * rows,
      }));
      row += matrices * rows;
      const out = this.#timer.floats(tokens * rows, { zeros: true });
      return { matrices: list, firstRow: 0, rows, width: rows, out, scale: 1 };
    });
    const memory = [x, ...(factors ? [factors] : []), ...slices.map(({ out }) => out)];
    const input = { x, factors, width: cols, rows: tokens, cols, integers };
    return { weight, input, slices, memory };
  }

  async #measure(
    name: string,
    { weight, input, slices }: Product,
    dispatches: readonly Dispatch[],
    copies = 1,
  ): Promise<void> {
    const seconds = await this.#timer.seconds(dispatches) / copies;
    const { part: { planes, rows: all } } = slices[0].matrices[0];
    const rows = slices.reduce((sum, { rows, matrices }) => sum + rows * matrices.length, 0);
    this.#add({
      name,
      type: weight.type,
      tokens: input.rows,
      seconds,
      bytes: (planes.quantBytes + planes.scaleBytes) * rows / all,
      operations: 2 * rows * input.cols * input.rows,
    });
  }

  #add(figure: Figure): void {
    this.figures.push(figure);
    const { name, type = "", tokens, seconds, bytes, operations } = figure;
    const cells = [
      name.padEnd(38),
      type.padEnd(8),
      (tokens === undefined ? "" : `${tokens} rows`).padStart(9),
      `${threeDigits(seconds * 1e6)} us`.padStart(11),
      `${threeDigits(bytes / seconds / 1e9)} GB/s`.padStart(11),
      percent(bytes / seconds / this.#bandwidth).padStart(6),
      (operations === undefined ? "" : `${threeDigits(operations / seconds / 1e12)} TFLOP/s`)
        .padStart(15),
    ];
    this.#onLine(cells.join("  ").trimEnd());
  }
}

/** Reads all of `x`, sixteen bytes a thread and time, and writes what nobody needs. */
function reading({ x, out, bytes }: { x: GPUBuffer; out: GPUBuffer; bytes: number }): Dispatch {
  const each = 8;
  const vectors = bytes / 16;
  return {
    label: "read",
    bindings: [
      { name: "x", buffer: x, type: "array<vec4<f32>>", size: bytes },
      { name: "out", buffer: out, write: true },
    ],
    params: { vectors },
    workgroups: Math.ceil(vectors / 256 / each),
    code: `
@compute @workgroup_size(256) fn main(${BUILTINS}) {
  ${WORKGROUP}
  let first = workgroup * ${256 * each}u + lane;
  var sum = vec4<f32>();
  for (var i = 0u; i < ${each}u; i++) { sum += x[min(first + i * 256u, params.vectors - 1u)]; }
  if (dot(sum, vec4<f32>(1.0)) == 12345.0) { out[0] = sum.x; }
}`,
  };
}

function vectorShapes(tokens: number, { integers, factors }: Input): VectorShape[] {
  return (integers === undefined && factors === undefined ? [8] : [1, 2, 4, 8]).flatMap((
    neighbours,
  ) =>
    ([1, 2, 4] as const).flatMap((rowsEach) =>
      [1, 2, 4, 8].map((blocksEach) => ({ rowsEach, blocksEach, neighbours }))
    )
  ).filter(({ rowsEach, blocksEach }) => rowsEach * blocksEach <= 8 && rowsEach * tokens <= 32);
}

/** The kernel for many rows. */
function tiles({ input, slices }: Pick<Product, "input" | "slices">): Dispatch[] {
  if (input.factors !== undefined) return halfMatrixMatrix(input, slices);
  return input.integers === undefined
    ? matrixMatrix(input, slices)
    : integerMatrixMatrix(input, slices);
}

/** The same in every shape that its tiles can have. */
function tilesOfAllShapes({ input, slices }: Product): { name: string; dispatches: Dispatch[] }[] {
  const of = { matrices: 1, lanes: lanesOf(input.cols) };
  if (input.factors === undefined && input.integers === undefined) {
    return shapesFor(of).map((shape) => ({
      name: `${tileRows(shape)} x ${tileTokens(shape)}, ${shape.groups} groups of ${
        groupThreads(shape)
      }`,
      dispatches: matrixMatrix(input, slices, { shape }),
    }));
  }
  const [shapes, kernel] = input.factors === undefined
    ? [integerShapes(of), integerMatrixMatrix]
    : [halfShapes(of), halfMatrixMatrix];
  return shapes.map((shape) => {
    const { rowsEach, tokensEach, blocks, groups, ahead } = shape;
    return {
      name: `${shapeRows(shape)} x ${
        shapeTokens(shape)
      }, ${blocks} blocks, ${groups} groups, ${ahead} ahead, ${
        shapeThreads(shape)
      } threads of ${rowsEach} x ${tokensEach}`,
      dispatches: kernel(input, slices, { shape }),
    };
  });
}

export interface GpuKernelOptions {
  readonly types?: readonly TensorType[];
  readonly activations: ActivationPrecision;
  /** Sizes for a software adapter. */
  readonly small?: boolean;
  /** Also every way to share the work. */
  readonly sweep?: boolean;
  /** Of the matrix that is multiplied with a vector. */
  readonly bytes?: number;
  /** Parts to measure; all by default. */
  readonly only?: readonly string[];
  /** Hears each figure as it is measured. */
  readonly onLine: (line: string) => void;
}

export interface GpuKernelFigures {
  readonly adapter: string;
  /** Times are the GPU's own. */
  readonly timestamps: boolean;
  /** They say nothing then. */
  readonly software: boolean;
  readonly figures: readonly Figure[];
}

/** Times products on the GPU. Rejects with CapacityError where there is none. */
export async function measureGpuKernels(options: GpuKernelOptions): Promise<GpuKernelFigures> {
  const { types = ["Q8_0", "Q4_K"], activations, small, sweep = false, only, onLine } = options;
  const wanted = (part: typeof PARTS[number]) => !only?.length || only.includes(part);
  const base = small ? SMALL : LARGE;
  const sizes = { ...base, bytes: options.bytes ?? base.bytes };
  const timer = await GpuTimer.open();
  try {
    const { timestamps, gpu: { adapter, software } } = timer;
    onLine(`${adapter}, ${timestamps ? "its own" : "the host's"} clock`);
    if (software) onLine(SOFTWARE_WARNING);
    const bench = new Bench(timer, { sizes, activations, onLine });
    await bench.bandwidth();
    if (wanted("vectors")) { for (const type of types) await bench.vectors(type, { sweep }); }
    if (wanted("matrices")) {
      if (activations === "f32") await bench.matrices("F32", { sweep });
      for (const type of types) await bench.matrices(type, { sweep });
    }
    if (wanted("layer")) { for (const type of types) await bench.layer(type); }
    return { adapter, timestamps, software, figures: bench.figures };
  } finally {
    timer.close();
  }
}

export async function main(args: readonly string[]): Promise<void> {
  const { values, help } = parseFlags(FLAGS, {
    command: "webgpu_kernels",
    args,
    env: () => undefined,
  });
  if (help) {
    const usage = "deno run -A src/bench/webgpu_kernels.ts [flags]";
    console.log(helpText(FLAGS, { usage, about: "Times the GPU's kernels for products." }));
    return;
  }
  const types = values.types.length > 0 ? values.types as TensorType[] : undefined;
  const onLine = (line: string) => console.log(line);
  console.log(JSON.stringify(await measureGpuKernels({ ...values, types, onLine })));
}

if (import.meta.main) await main(Deno.args);
