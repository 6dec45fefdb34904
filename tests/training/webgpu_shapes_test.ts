/**
 * Backward passes on the GPU against the reference, in shapes that reach every size of tile, results whose
 * sums are cut up, pairs of more than one run, and rows of more than one block.
 */

import { assert } from "@std/assert";
import type { Buffer } from "../../src/backend/backend.ts";
import { createReferenceTrainingBackend } from "../../src/backend/reference/training/mod.ts";
import {
  CLOCK_ROWS,
  type Parameter,
  TOTALS_ROWS,
  type TrainingBackend,
  type TrainingOps,
} from "../../src/backend/training.ts";
import { createWebGpuTrainingBackend } from "../../src/backend/webgpu/training/mod.ts";
import { assertSameBits } from "../backend/_harness.ts";
import { generator, normals } from "../backend/_random.ts";
import { GPU_SKIPPED } from "../support/gpu.ts";
import { matrixOf } from "./_differences.ts";

/** One backend's buffers and weights, the same numbers on each. */
class Setup {
  readonly backend: TrainingBackend;
  readonly random: () => number;
  readonly results = new Map<string, Buffer | Parameter>();

  constructor(backend: TrainingBackend) {
    this.backend = backend;
    this.random = generator(77);
  }

  floats(rows: number, width: number): Buffer {
    const buffer = this.backend.createBuffer({ kind: "f32", rows, width });
    this.backend.write(buffer, normals(this.random, { length: rows * width }));
    return buffer;
  }

  integers(values: readonly number[], width = 1): Buffer {
    const shape = { kind: "i32", rows: values.length / width, width } as const;
    const buffer = this.backend.createBuffer(shape);
    this.backend.write(buffer, Int32Array.from(values));
    return buffer;
  }

  /** A buffer that is compared. */
  result(name: string, rows: number, width: number): Buffer {
    const buffer = this.floats(rows, width);
    this.results.set(name, buffer);
    return buffer;
  }

  async weight(name: string, rows: number, cols: number) {
    const values = normals(this.random, { length: rows * cols, scale: 0.5 });
    const weight = await this.backend.upload(matrixOf(name, { rows, cols, values }));
    this.gradient(name, this.backend.parameterOf(weight));
    return weight;
  }

  gradient(name: string, parameter: Parameter): void {
    this.backend.allocateGradients([parameter], { moments: 0 });
    this.results.set(`the gradient of ${name}`, parameter);
  }

  async read(): Promise<Map<string, Float32Array>> {
    const values = new Map<string, Float32Array>();
    for (const [name, result] of this.results) {
      const read = "kind" in result
        ? await this.backend.read(result)
        : await this.backend.readParameter(result, "gradient");
      values.set(name, read);
    }
    return values;
  }
}

type Build = (setup: Setup) => Promise<(ops: TrainingOps) => void>;

async function resultsOf(backend: TrainingBackend, build: Build) {
  const setup = new Setup(backend);
  backend.submit(backend.recordTraining(await build(setup)));
  const results = await setup.read();
  backend.close();
  return results;
}

async function assertAsReference(
  build: Build,
  { storage = "f32", tolerance = 2e-5 }: { storage?: "f32" | "f16"; tolerance?: number } = {},
): Promise<void> {
  const expected = await resultsOf(createReferenceTrainingBackend({ storage }), build);
  const actual = await resultsOf(await createWebGpuTrainingBackend({ storage }), build);
  const again = await resultsOf(await createWebGpuTrainingBackend({ storage }), build);
  for (const [name, values] of expected) {
    const most = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const worst = values.reduce(
      (worst, value, i) => Math.max(worst, Math.abs(actual.get(name)![i] - value)),
      0,
    );
    assert(most > 0, `${name} is all zero`);
    assert(worst <= tolerance * most, `${name} is off by ${worst}, its largest number is ${most}`);
    assertSameBits(again.get(name)!, actual.get(name)!, `${name}, computed again`);
  }
}

function linear(rows: number, outDim: number, width: number): Build {
  return async (setup) => {
    const weight = await setup.weight("weight", outDim, width);
    const bias = await setup.weight("bias", 1, outDim);
    const x = setup.floats(rows, width);
    const outGradient = setup.floats(rows, outDim);
    const buffer = setup.result("the input's gradient", rows, width);
    return (ops) =>
      ops.linearBackward({
        x,
        outputs: [{ weight, bias, scale: 0.5, outGradient }],
        target: { buffer, accumulate: true },
        rows,
      });
  };
}

function positionsOf(lengths: readonly number[]): number[] {
  return lengths.flatMap((length) => Array.from({ length }, (_, i) => i));
}

function attention(window: number | undefined): Build {
  return (setup) => {
    const [heads, kvHeads, keyDim, valueDim] = [4, 2, 12, 8];
    const positions = positionsOf([70, 3, 81]);
    const rows = positions.length;
    const q = setup.floats(rows, heads * keyDim);
    const k = setup.floats(rows, kvHeads * keyDim);
    const v = setup.floats(rows, kvHeads * valueDim);
    const out = setup.floats(rows, heads * valueDim);
    const outGradient = setup.floats(rows, heads * valueDim);
    const params = {
      ...{ q, k, v, out, outGradient, heads, kvHeads, scale: 0.3, rows },
      ...(window !== undefined && { window }),
      positions: setup.integers(positions),
      qGradient: setup.result("the queries' gradient", rows, heads * keyDim),
      kGradient: setup.result("the keys' gradient", rows, kvHeads * keyDim),
      vGradient: setup.result("the values' gradient", rows, kvHeads * valueDim),
    };
    return Promise.resolve((ops) => ops.attentionBackward(params));
  };
}

function latentAttention(): Build {
  return (setup) => {
    const [heads, nopeDim, latentDim, ropeDim] = [2, 6, 72, 8];
    const positions = positionsOf([66, 9]);
    const rows = positions.length;
    const stride = nopeDim + ropeDim;
    const params = {
      latentQuery: setup.floats(rows, heads * latentDim),
      q: setup.floats(rows, heads * stride),
      tokens: setup.floats(rows, latentDim + ropeDim),
      out: setup.floats(rows, heads * latentDim),
      outGradient: setup.floats(rows, heads * latentDim),
      ...{ heads, nopeDim, latentDim, scale: 0.1, rows },
      positions: setup.integers(positions),
      latentQueryGradient: setup.result("the latent queries' gradient", rows, heads * latentDim),
      qGradient: setup.result("the queries' gradient", rows, heads * stride),
      tokensGradient: setup.result("the tokens' gradient", rows, latentDim + ropeDim),
    };
    return Promise.resolve((ops) => ops.latentAttentionBackward(params));
  };
}

function experts(rows: number, intermediate: number): Build {
  return async (setup) => {
    const [hidden, count, topK] = [20, 5, 2];
    const tensors = (rows: number, cols: number, name: string) =>
      Array.from({ length: count }, (_, e) => {
        const values = normals(setup.random, { length: rows * cols, scale: 0.5 });
        return matrixOf(`${name}.${e}`, { rows, cols, values });
      });
    const experts = await setup.backend.uploadExperts({
      layer: 0,
      gate: tensors(intermediate, hidden, "gate"),
      up: tensors(intermediate, hidden, "up"),
      down: tensors(hidden, intermediate, "down"),
    });
    const parameters = setup.backend.parametersOf(experts);
    for (const part of ["gate", "up", "down"] as const) setup.gradient(part, parameters[part]);
    // Expert 2 is chosen by nobody, and expert 4 by more than half of the rows.
    const ids = Array.from({ length: rows }, (_, t) => [[4, 0], [1, 4], [3, 1]][t * 7 % 3]);
    const expertIds = setup.integers(ids.flat(), topK);
    const x = setup.floats(rows, hidden);
    const weights = setup.floats(rows, topK);
    const outGradient = setup.floats(rows, hidden);
    const kept = {
      gate: setup.floats(rows * topK, intermediate),
      up: setup.floats(rows * topK, intermediate),
    };
    const buffer = setup.result("the input's gradient", rows, hidden);
    const weightsGradient = setup.result("the weights' gradient", rows, topK);
    return (ops) => {
      const common = { x, experts, expertIds, topK, kept, rows };
      ops.expertGates(common);
      ops.expertsBackward({
        ...{ ...common, weights, scale: 0.8, outGradient, weightsGradient },
        target: { buffer, accumulate: true },
      });
    };
  };
}

function rowOps(): Build {
  return async (setup) => {
    const [rows, width] = [400, 70];
    const table = await setup.weight("table", 9, width);
    const weight = await setup.weight("norm", 1, width);
    const ids = Array.from({ length: rows }, (_, t) => t < 210 ? 3 : t * t % 9);
    const sorted = Array.from(ids.keys()).sort((a, b) => ids[a] - ids[b] || a - b);
    const order = setup.integers(sorted);
    const x = setup.floats(rows, width);
    const outGradient = setup.result("the input's gradient, in place", rows, width);
    const ofIds = setup.integers(ids);
    return (ops) => {
      ops.embedBackward({ table, ids: ofIds, order, outGradient, scale: 2, rows });
      const target = { buffer: outGradient, accumulate: false };
      ops.rmsNormBackward({ x, weight, eps: 1e-3, outGradient, target, rows });
    };
  };
}

function gate(over: "sequence" | "batch", score: "sigmoid" | "softmax"): Build {
  return async (setup) => {
    const [width, count, topK] = [10, 70, 3];
    const positions = positionsOf([300, 1, 20]);
    const rows = positions.length;
    const weight = await setup.weight("weight", count, width);
    const ids = positions.flatMap((_, t) => [t * 3 % 7, 7 + t % 5, 12 + t * t % 50]);
    const clock = setup.result("the clock", CLOCK_ROWS, 1);
    const balance = {
      over,
      rowWeights: setup.floats(rows, 1),
      positions: setup.integers(positions),
      clock,
      totals: setup.result("the totals", TOTALS_ROWS, 1),
    };
    // A row that doesn't count, in a sequence of others that do.
    setup.backend.write(balance.rowWeights, new Float32Array(7), 40);
    const params = {
      ...{ weight, score, topK, normalise: true, scale: 1.5, rows, balance },
      normed: setup.floats(rows, width),
      expertIds: setup.integers(ids, topK),
      weightsGradient: setup.floats(rows, topK),
      target: { buffer: setup.result("the input's gradient", rows, width), accumulate: false },
    };
    return (ops) => ops.gateBackward(params);
  };
}

function counts(): Build {
  return (setup) => {
    const [rows, width, topK] = [3000, 70, 2];
    const params = {
      ...{ topK, rows, row: 1, counts: setup.result("the counts", 2, width) },
      expertIds: setup.integers(positionsOf([rows]).flatMap((t) => [t % 70, t * t % 69]), topK),
      counted: setup.floats(rows, 1),
    };
    setup.backend.write(params.counted, new Float32Array(500), 40);
    return Promise.resolve((ops) => ops.countExperts(params));
  };
}

const CASES: Readonly<Record<string, Build>> = Object.freeze({
  "products in tiles of 32 and in several sums": linear(1100, 40, 36),
  "products in tiles of 64": linear(2050, 7, 1030),
  "products in tiles of 128, in vectors of four": linear(16896, 4, 256),
  "a matrix's gradient in tiles of 128": linear(5, 2816, 1536),
  "attention over more rows than threads": attention(undefined),
  "attention within a window": attention(67),
  "latent attention over more columns than threads": latentAttention(),
  "experts of more pairs than a run": experts(310, 10),
  "experts whose pairs are cut up into several sums": experts(2700, 10),
  "experts in vectors of four, and other workgroups": experts(290, 152),
  "a gate that balances sequences": gate("sequence", "sigmoid"),
  "a gate that balances a batch": gate("batch", "softmax"),
  "ids that repeat, and a norm in place": rowOps(),
  "choices of more pairs than are counted at once": counts(),
});

for (const [name, build] of Object.entries(CASES)) {
  Deno.test({
    name: `webgpu training: ${name} give the reference's gradients, and the same bits again`,
    ignore: GPU_SKIPPED !== undefined,
    fn: () => assertAsReference(build),
  });
}

/** The reference rounds the gradient times an expert's weight, the GPU the activation times it. */
const EXPERTS_IN_HALVES = 2 * 2 ** -11;

for (const [name, build] of Object.entries(CASES)) {
  const isExperts = name.startsWith("experts");
  if (!isExperts && !/products|matrix/.test(name)) continue;
  Deno.test({
    name: `webgpu training: ${name}, of halves, give the reference's gradients`,
    ignore: GPU_SKIPPED !== undefined,
    fn: () =>
      assertAsReference(build, {
        storage: "f16",
        ...(isExperts && { tolerance: EXPERTS_IN_HALVES }),
      }),
  });
}
