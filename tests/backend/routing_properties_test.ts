/** What holds of every gate, whatever its configuration: checked on random ones, on every backend. */

import { assert, assertEquals } from "@std/assert";
import { createReferenceBackend } from "../../src/backend/reference/mod.ts";
import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { type GateCase, gateCase, type GateConfig, type Routed, runGate } from "./_gates.ts";
import { assertSameBits, withBackend } from "./_harness.ts";
import { generator } from "./_random.ts";
import { UNIT_ROUNDOFF } from "./_tolerance.ts";

const BACKENDS = {
  reference: () => Promise.resolve(createReferenceBackend()),
  wasm: () => createWasmBackend({ threads: 2, activations: "q8" }),
};

const CASES = 60;

/** A random gate that fits together: groups divide the experts, the used ones hold topK. */
function randomConfig(random: () => number): GateConfig {
  const pick = <T>(...of: readonly T[]): T => of[Math.floor(random() * of.length)];
  const between = (low: number, high: number) => low + Math.floor(random() * (high - low + 1));
  const size = between(2, 9);
  const count = between(1, 8);
  const used = between(1, count);
  const grouped = random() < 0.6;
  return {
    experts: size * count,
    hidden: between(1, 70),
    type: pick("F32", "F16", "BF16"),
    score: pick("softmax", "sigmoid", "softmaxOfChosen"),
    groups: grouped ? { count, used, rank: pick("max", "topTwo") } : undefined,
    topK: between(1, Math.min(10, grouped ? used * size : size * count)),
    normalise: random() < 0.5,
    scale: pick(1, 2.5, 0.3),
    bias: random() < 0.3,
    correction: pick(undefined, "small", "negative"),
  };
}

function* randomCases(seed: number): Generator<GateCase> {
  const random = generator(seed);
  for (let i = 0; i < CASES; i++) {
    const rows = 1 + Math.floor(random() * 20);
    yield gateCase(randomConfig(random), { rows, seed: seed + i });
  }
}

/** Ids and weights by row. */
function rowsOf({ config: { topK }, rows }: GateCase, { expertIds, weights }: Routed) {
  return Array.from({ length: rows }, (_, t) => ({
    ids: [...expertIds.subarray(t * topK, (t + 1) * topK)],
    weights: [...weights.subarray(t * topK, (t + 1) * topK)],
  }));
}

for (const [name, open] of Object.entries(BACKENDS)) {
  Deno.test(`${name}: every row gets exactly k distinct experts that exist`, () =>
    withBackend(open, async (backend) => {
      for (const test of randomCases(1)) {
        const { topK, experts } = test.config;
        for (const { ids } of rowsOf(test, await runGate(backend, test))) {
          assertEquals(new Set(ids).size, topK, JSON.stringify(test.config));
          assert(ids.every((id) => id >= 0 && id < experts), `${ids} of ${experts}`);
        }
      }
    }));

  Deno.test(`${name}: weights are positive and sum as configured`, () =>
    withBackend(open, async (backend) => {
      for (const test of randomCases(1000)) {
        const { topK, score, normalise, scale } = test.config;
        const slack = (16 + 2 * topK) * UNIT_ROUNDOFF * scale;
        for (const { weights } of rowsOf(test, await runGate(backend, test))) {
          const sum = weights.reduce((total, weight) => total + weight, 0);
          const what = `${JSON.stringify(test.config)}: ${weights} sum to ${sum}`;
          assert(weights.every((weight) => weight > 0 && weight <= scale + slack), what);
          if (normalise || score === "softmaxOfChosen") {
            assert(Math.abs(sum - scale) <= slack, what);
          } else if (score === "softmax") {
            assert(sum <= scale + slack, what);
          }
        }
      }
    }));

  Deno.test(`${name}: chosen experts lie in no more groups than allowed`, () =>
    withBackend(open, async (backend) => {
      for (const test of randomCases(2000)) {
        const { groups, experts } = test.config;
        if (groups === undefined) continue;
        const size = experts / groups.count;
        for (const { ids } of rowsOf(test, await runGate(backend, test))) {
          const seen = new Set(ids.map((id) => Math.floor(id / size)));
          assert(seen.size <= groups.used, `${JSON.stringify(test.config)}: ${ids}`);
        }
      }
    }));

  Deno.test(`${name}: the correction bias changes the choice and never a weight`, () =>
    withBackend(open, async (backend) => {
      let changed = 0;
      for (const drawn of randomCases(3000)) {
        // Without the division by their sum a weight is the expert's own.
        const score = drawn.config.score === "softmaxOfChosen" ? "sigmoid" : drawn.config.score;
        const config = { ...drawn.config, score, normalise: false };
        const plain = { ...drawn, config, correctionBias: undefined };
        const corrected = {
          ...plain,
          correctionBias: Float32Array.from({ length: config.experts }, (_, e) => e % 3 - 1),
        };
        const before = rowsOf(plain, await runGate(backend, plain));
        const after = rowsOf(corrected, await runGate(backend, corrected));
        for (const [row, { ids, weights }] of after.entries()) {
          for (const [j, id] of ids.entries()) {
            const same = before[row].ids.indexOf(id);
            if (same < 0) changed++;
            else assertEquals(weights[j], before[row].weights[same], `row ${row}, expert ${id}`);
          }
        }
      }
      assert(changed > 0, "a correction of a whole score must change some choice");
    }));

  Deno.test(`${name}: experts that the correction favours by more than any score are chosen`, () =>
    withBackend(open, async (backend) => {
      for (const drawn of randomCases(4000)) {
        const { topK, experts } = drawn.config;
        const config = { ...drawn.config, score: "sigmoid", groups: undefined } as const;
        const favoured = Array.from({ length: topK }, (_, j) => experts - 1 - j);
        const correctionBias = new Float32Array(experts);
        for (const e of favoured) correctionBias[e] = 2;
        const test = { ...drawn, config, correctionBias };
        for (const { ids } of rowsOf(test, await runGate(backend, test))) {
          assertEquals(new Set(ids), new Set(favoured));
        }
      }
    }));

  Deno.test(`${name}: rows in another order are routed the same`, () =>
    withBackend(open, async (backend) => {
      for (const test of randomCases(5000)) {
        const { hidden, topK } = test.config;
        const { rows } = test;
        // Turned around, then shifted, so that no row keeps its place but by chance.
        const order = Array.from({ length: rows }, (_, t) => (2 * rows - t + 2) % rows);
        const permuted = <T extends Float32Array | Int32Array>(values: T, width: number): T => {
          const out = values.slice() as T;
          order.forEach((from, t) =>
            out.set(values.subarray(from * width, (from + 1) * width), t * width)
          );
          return out;
        };
        const straight = await runGate(backend, test);
        const turned = await runGate(backend, { ...test, x: permuted(test.x, hidden) });
        assertEquals(turned.expertIds, permuted(straight.expertIds, topK));
        assertSameBits(turned.weights, permuted(straight.weights, topK), "weights");
        assertSameBits(turned.normed, permuted(straight.normed, hidden), "normalised rows");
      }
    }));
}
