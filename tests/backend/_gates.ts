/** Gates for tests: configurations, random inputs, and one run of the op. */

import type { Backend, GateParams } from "../../src/backend/backend.ts";
import type { TensorType } from "../../src/quant/types.ts";
import { magnitudeOf } from "./_expected.ts";
import { filled, uploadVector } from "./_harness.ts";
import { generator, normals, randomWeight, type TestWeight } from "./_random.ts";

export const EPS = 1e-6;

/** What a model's config says of its gate. */
export interface GateConfig
  extends Pick<GateParams, "score" | "groups" | "topK" | "normalise" | "scale"> {
  readonly experts: number;
  readonly hidden: number;
  readonly type: TensorType;
  readonly bias?: boolean;
  /** Range of the correction bias: "negative" makes every choice score negative. */
  readonly correction?: "small" | "negative";
}

export interface GateCase {
  readonly config: GateConfig;
  readonly weight: TestWeight;
  readonly bias: Float32Array | undefined;
  readonly correctionBias: Float32Array | undefined;
  readonly norm: Float32Array;
  /** [rows, hidden] */
  readonly x: Float32Array;
  readonly rows: number;
}

export interface Routed {
  readonly normed: Float32Array;
  readonly expertIds: Int32Array;
  readonly weights: Float32Array;
}

export function gateCase(
  config: GateConfig,
  { rows, seed }: { rows: number; seed: number },
): GateCase {
  const { experts, hidden, type, bias, correction } = config;
  const random = generator(seed);
  const weight = randomWeight(random, { name: "gate", type, rows: experts, cols: hidden });
  // Logits of about this deviation: neither all alike nor at the sigmoid's ends.
  const spread = 1.5 / Math.sqrt(magnitudeOf(weight.values, weight.values) / experts);
  const centre = correction === "negative" ? -2 : 0;
  return {
    config,
    weight,
    bias: bias ? normals(random, { length: experts }) : undefined,
    correctionBias: correction &&
      normals(random, { length: experts, scale: 0.1 }).map((value) => centre + value),
    norm: normals(random, { length: hidden, scale: 0.5 }).map((value) => spread * (1 + value)),
    x: normals(random, { length: rows * hidden, scale: 3 }),
    rows,
  };
}

/** Rows `from` to `to` of a case. */
export function partOf(test: GateCase, [from, to]: [number, number]): GateCase {
  const { hidden } = test.config;
  return { ...test, x: test.x.slice(from * hidden, to * hidden), rows: to - from };
}

export async function runGate(backend: Backend, test: GateCase): Promise<Routed> {
  const { config, rows } = test;
  const { hidden, topK } = config;
  const vector = (values: Float32Array | undefined) => values && uploadVector(backend, values);
  const x = filled(backend, hidden, test.x);
  const normed = backend.createBuffer({ kind: "f32", rows, width: hidden });
  const expertIds = backend.createBuffer({ kind: "i32", rows, width: topK });
  const weights = backend.createBuffer({ kind: "f32", rows, width: topK });
  const params: GateParams = {
    x,
    norm: { weight: await uploadVector(backend, test.norm), eps: EPS },
    normed,
    weight: await backend.upload(test.weight.data, { exact: true }),
    bias: await vector(test.bias),
    correctionBias: await vector(test.correctionBias),
    score: config.score,
    groups: config.groups,
    topK,
    normalise: config.normalise,
    scale: config.scale,
    expertIds,
    weights,
    rows,
  };
  backend.submit(backend.record((ops) => ops.gate(params)));
  return {
    normed: await backend.read(normed),
    expertIds: await backend.readIntegers(expertIds),
    weights: await backend.read(weights),
  };
}
