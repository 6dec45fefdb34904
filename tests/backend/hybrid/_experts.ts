/** What the tests of the hybrid backend share: random experts, and a mixture of their own to run. */

import type {
  Backend,
  Buffer,
  Experts,
  ExpertTensors,
  Plan,
} from "../../../src/backend/backend.ts";
import { uploadVector } from "../_harness.ts";
import { generator, normals, randomWeight } from "../_random.ts";

export const HIDDEN = 32;
const INTERMEDIATE = 64;

/** Experts of Q8_0, the same ones for a layer at every call. */
export function randomExperts(
  { layer, count }: { layer: number; count: number },
): ExpertTensors {
  const matrices = (what: string, [rows, cols]: readonly [number, number]) =>
    Array.from({ length: count }, (_, e) => {
      const random = generator(1000 * layer + 10 * e + what.length);
      const name = `layer ${layer}, ${what} of expert ${e}`;
      return randomWeight(random, { name, type: "Q8_0", rows, cols }).data;
    });
  return {
    layer,
    gate: matrices("gate", [INTERMEDIATE, HIDDEN]),
    up: matrices("up", [INTERMEDIATE, HIDDEN]),
    down: matrices("down", [HIDDEN, INTERMEDIATE]),
  };
}

export function uploadRandomExperts(
  backend: Backend,
  options: { layer: number; count: number },
): Promise<Experts> {
  return backend.uploadExperts(randomExperts(options));
}

/** Two layers of a mixture each, behind a gate, around a residual stream. */
export interface TwoLayers {
  /** f32 [MAX_ROWS, HIDDEN] */
  readonly x: Buffer;
  /** i32 [MAX_ROWS, TOP_K], of each layer. */
  readonly expertIds: readonly Buffer[];
  readonly weights: readonly Buffer[];
  plan(rows: number): Plan;
}

export const MAX_ROWS = 12;
export const TOP_K = 2;
export const EXPERTS = 6;
export const LAYERS = [3, 4];

type Create = (kind: "f32" | "i32", width: number) => Buffer;

async function loadLayer(
  backend: Backend,
  { layer, experts, create }: { layer: number; experts: ExpertTensors; create: Create },
) {
  const matrix = (seed: number, [rows, cols]: readonly [number, number]) => {
    const options = { name: `matrix ${seed}`, type: "F32", rows, cols } as const;
    return backend.upload(randomWeight(generator(seed), options).data);
  };
  const weight = await uploadVector(backend, normals(generator(layer), { length: HIDDEN }));
  return {
    norm: { weight, eps: 1e-5 },
    gate: await matrix(10 + layer, [EXPERTS, HIDDEN]),
    shared: {
      gate: await matrix(20 + layer, [INTERMEDIATE, HIDDEN]),
      up: await matrix(30 + layer, [INTERMEDIATE, HIDDEN]),
      down: await matrix(40 + layer, [HIDDEN, INTERMEDIATE]),
    },
    experts: await backend.uploadExperts(experts),
    expertIds: create("i32", TOP_K),
    weights: create("f32", TOP_K),
  };
}

/**
 * Between gate and experts a shared expert runs, as in a model. `expertsOf` gives others than random
 * experts.
 */
export async function twoLayers(
  backend: Backend,
  expertsOf: (layer: number) => ExpertTensors = (layer) => randomExperts({ layer, count: EXPERTS }),
): Promise<TwoLayers> {
  const create: Create = (kind, width) => backend.createBuffer({ kind, rows: MAX_ROWS, width });
  const x = create("f32", HIDDEN);
  const [normed, gated] = [create("f32", HIDDEN), create("f32", INTERMEDIATE)];
  const loaded = [];
  for (const layer of LAYERS) {
    loaded.push(await loadLayer(backend, { layer, experts: expertsOf(layer), create }));
  }
  const parts: readonly Awaited<ReturnType<typeof loadLayer>>[] = loaded;
  const plan = (rows: number) =>
    backend.record((ops) => {
      for (const { norm, gate, shared, experts, expertIds, weights } of parts) {
        ops.gate({
          ...{ x, norm, normed, weight: gate, expertIds, weights, rows },
          ...{ score: "softmax", topK: TOP_K, normalise: true, scale: 1 },
        });
        const activation = "silu";
        const { gate: sharedGate, up, down } = shared;
        ops.gatedLinear({ x: normed, gate: sharedGate, up, activation, out: gated, rows });
        ops.linear({ x: gated, outputs: [{ weight: down, out: x, accumulate: true }], rows });
        const routing = { expertIds, weights, topK: TOP_K };
        ops.experts({ x: normed, experts, ...routing, activation, out: x, rows });
      }
    });
  return {
    x,
    expertIds: parts.map(({ expertIds }) => expertIds),
    weights: parts.map(({ weights }) => weights),
    plan,
  };
}

/** Rows that are the same at every call. */
export function inputs(rows: number, seed = 1): Float32Array {
  return normals(generator(seed), { length: rows * HIDDEN });
}

/** The residual stream after the layers. */
export async function outputs(
  backend: Backend,
  { layers, rows }: { layers: TwoLayers; rows: Float32Array },
): Promise<Float32Array> {
  const count = rows.length / HIDDEN;
  backend.write(layers.x, rows);
  backend.submit(layers.plan(count));
  return await backend.read(layers.x, { rows: count });
}
