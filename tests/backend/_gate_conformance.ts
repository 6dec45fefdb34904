/** The part of the conformance suite about the gate: scores, choice, groups, weights. */

import { assert, assertEquals } from "@std/assert";
import type { GateParams } from "../../src/backend/backend.ts";
import { magnitudeOf, normed, product, rowOf } from "./_expected.ts";
import {
  EPS,
  type GateCase,
  gateCase,
  type GateConfig,
  partOf,
  type Routed,
  runGate,
} from "./_gates.ts";
import { assertSameBits, type Conformance, withBackend } from "./_harness.ts";
import { ErrorTally, sumRounding, UNIT_ROUNDOFF } from "./_tolerance.ts";

const PLAIN = { score: "softmax", topK: 2, normalise: true, scale: 1, type: "F32" } as const;

const CONFIGS: Readonly<Record<string, GateConfig>> = {
  "softmax, renormalised": { ...PLAIN, experts: 6, hidden: 40 },
  "softmax, not renormalised": { ...PLAIN, experts: 64, hidden: 33, topK: 8, normalise: false },
  "all experts chosen": { ...PLAIN, experts: 6, hidden: 7, topK: 6 },
  "softmax of the chosen, with a bias (GPT-OSS)": {
    ...PLAIN,
    score: "softmaxOfChosen",
    experts: 16,
    hidden: 64,
    topK: 4,
    normalise: false,
    bias: true,
    type: "BF16",
  },
  "groups by their largest score (DeepSeek-V2)": {
    ...PLAIN,
    experts: 24,
    hidden: 96,
    topK: 6,
    normalise: false,
    scale: 16,
    groups: { count: 8, used: 3, rank: "max" },
  },
  "sigmoid without groups": { ...PLAIN, score: "sigmoid", experts: 16, hidden: 20, topK: 4 },
  "sigmoid, weights as they are, quantised gate": {
    ...PLAIN,
    score: "sigmoid",
    experts: 24,
    hidden: 96,
    topK: 3,
    normalise: false,
    scale: 0.5,
    type: "Q8_0",
  },
  "groups by their two largest, only negative choice scores": {
    ...PLAIN,
    score: "sigmoid",
    experts: 64,
    hidden: 48,
    topK: 6,
    scale: 2.5,
    correction: "negative",
    groups: { count: 4, used: 2, rank: "topTwo" },
  },
  "groups by their two largest of 256 experts (DeepSeek-V3)": {
    ...PLAIN,
    score: "sigmoid",
    experts: 256,
    hidden: 128,
    topK: 8,
    scale: 2.5,
    correction: "small",
    groups: { count: 8, used: 4, rank: "topTwo" },
  },
  "groups of two, by their two largest": {
    ...PLAIN,
    score: "sigmoid",
    experts: 6,
    hidden: 64,
    correction: "small",
    groups: { count: 3, used: 1, rank: "topTwo" },
  },
};

const BATCHES = [1, 2, 5, 17, 65];

/** Logits of one normalised row in float64, and how far float32 may be from the worst of them. */
function logitsOf(test: GateCase, x: Float32Array): { logits: number[]; error: number } {
  const { weight, bias, config: { hidden, experts } } = test;
  let error = 0;
  const logits = Array.from({ length: experts }, (_, e) => {
    const row = rowOf(weight.values, e, hidden);
    const added = bias?.[e] ?? 0;
    error = Math.max(error, sumRounding(hidden, magnitudeOf(row, x) + Math.abs(added)));
    return product(row, x) + added;
  });
  return { logits, error };
}

function softmax(values: readonly number[]): number[] {
  const largest = Math.max(...values);
  const total = values.reduce((sum, value) => sum + Math.exp(value - largest), 0);
  return values.map((value) => Math.exp(value - largest) / total);
}

function scoresOf(score: GateParams["score"], logits: readonly number[]): readonly number[] {
  if (score === "softmax") return softmax(logits);
  return score === "sigmoid" ? logits.map((logit) => 1 / (1 + Math.exp(-logit))) : logits;
}

/** Indices by falling value, of equals the lower first. */
function ranking(values: readonly number[]): number[] {
  return values.map((_, i) => i).sort((a, b) => values[b] - values[a] || a - b);
}

/** Distance between the values at places `count - 1` and `count` of a ranking; infinite at its end. */
function gapAfter(values: readonly number[], count: number): number {
  const order = ranking(values);
  return count === order.length ? Infinity : values[order[count - 1]] - values[order[count]];
}

/** The choice by the definition, and the smallest distance between scores that decided it. */
function choose(test: GateCase, scores: readonly number[]): { ids: number[]; margin: number } {
  const { config: { groups, topK }, correctionBias } = test;
  const choice = scores.map((score, e) => score + (correctionBias?.[e] ?? 0));
  let candidates = choice.map((_, e) => e);
  let margin = Infinity;
  if (groups !== undefined) {
    const size = choice.length / groups.count;
    const ranks = Array.from({ length: groups.count }, (_, g) => {
      const members = choice.slice(g * size, (g + 1) * size).sort((a, b) => b - a);
      return groups.rank === "max" ? members[0] : members[0] + members[1];
    });
    margin = gapAfter(ranks, groups.used);
    const used = new Set(ranking(ranks).slice(0, groups.used));
    candidates = candidates.filter((e) => used.has(Math.floor(e / size)));
  }
  const values = candidates.map((e) => choice[e]);
  for (let place = 1; place <= topK; place++) margin = Math.min(margin, gapAfter(values, place));
  return { ids: ranking(values).slice(0, topK).map((i) => candidates[i]), margin };
}

/** Weights of chosen experts by the definition. */
function weightsOf(test: GateCase, chosen: readonly number[]): number[] {
  const { score, normalise, scale } = test.config;
  const weights = score === "softmaxOfChosen" ? softmax(chosen) : chosen;
  const total = normalise ? weights.reduce((sum, weight) => sum + weight, 1e-20) : 1;
  return weights.map((weight) => weight / total * scale);
}

/** Checks a row's choice and weights; says whether rounding could not have changed the choice. */
function checkRow(
  tally: ErrorTally,
  { test, routed, row }: { test: GateCase; routed: Routed; row: number },
): boolean {
  const { score, hidden, topK, normalise } = test.config;
  const { logits, error } = logitsOf(test, rowOf(routed.normed, row, hidden));
  const scores = scoresOf(score, logits);
  // Both slopes are at most 1/4; the exponential, the division and the bias add a few roundings.
  const scoreError = score === "softmaxOfChosen" ? error : error / 4 + 16 * UNIT_ROUNDOFF;
  const biasError = 4 * UNIT_ROUNDOFF * Math.max(0, ...(test.correctionBias ?? []).map(Math.abs));
  const { ids, margin } = choose(test, scores);
  const actual = [...routed.expertIds.subarray(row * topK, (row + 1) * topK)];
  // A group's rank is the sum of two scores, and two such are compared.
  const clear = margin > 4 * (scoreError + biasError);
  if (clear) assertEquals(actual, ids, `row ${row} of ${test.rows}`);
  const expected = weightsOf(test, actual.map((e) => scores[e]));
  // Relative: errors of logits enter exponents, and once more through the sum where there is one.
  const relative = (normalise || score !== "sigmoid" ? 2 : 1) * error + 40 * UNIT_ROUNDOFF;
  expected.forEach((weight, j) =>
    tally.add(routed.weights[row * topK + j], {
      expected: weight,
      tolerance: { rounding: relative * weight, deviation: 0 },
      at: `row ${row} of ${test.rows}, expert ${actual[j]}`,
    })
  );
  return clear;
}

function tallyNormed(
  tally: ErrorTally,
  { test, routed }: { test: GateCase; routed: Routed },
): void {
  const { hidden } = test.config;
  for (let row = 0; row < test.rows; row++) {
    const x = rowOf(test.x, row, hidden);
    normed(x, { weight: test.norm, eps: EPS }).forEach((expected, i) =>
      tally.add(routed.normed[row * hidden + i], {
        expected,
        tolerance: { rounding: sumRounding(hidden, Math.abs(expected)), deviation: 0 },
        at: `row ${row}, value ${i}`,
      })
    );
  }
}

function assertSameRouting(a: Routed, b: Routed, what: string): void {
  assertSameBits(a.normed, b.normed, `${what}, normalised rows`);
  assertEquals(a.expertIds, b.expertIds, `${what}, experts`);
  assertSameBits(a.weights, b.weights, `${what}, weights`);
}

/** A gate whose logits are exact: expert e's is `logits[e]` for every row. */
function exactCase(config: GateConfig, logits: readonly number[]): GateCase {
  const test = gateCase({ ...config, experts: logits.length }, { rows: 5, seed: 1 });
  // Rows of zeros: the bias alone decides.
  return { ...test, x: test.x.fill(0), bias: Float32Array.from(logits) };
}

export function gateTests({ name, open, openTwin }: Conformance): void {
  Deno.test(`${name}: the gate chooses and weighs experts as defined`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, [title, config]] of Object.entries(CONFIGS).entries()) {
        await t.step(title, async () => {
          const rowsNormed = new ErrorTally("normalised rows");
          const weights = new ErrorTally("weights");
          let [clear, total] = [0, 0];
          for (const rows of BATCHES) {
            const test = gateCase(config, { rows, seed: 1300 + 100 * index + rows });
            const routed = await runGate(backend, test);
            tallyNormed(rowsNormed, { test, routed });
            for (let row = 0; row < rows; row++) {
              if (checkRow(weights, { test, routed, row })) clear++;
              total++;
            }
          }
          rowsNormed.finish();
          weights.finish();
          assert(clear > 0.8 * total, `only ${clear} of ${total} rows were not near a tie`);
        });
      }
    });
  });

  Deno.test(`${name}: of equal scores the lower expert and the lower group are chosen`, async () => {
    await withBackend(open, async (backend) => {
      const base: GateConfig = { ...PLAIN, experts: 8, hidden: 12, topK: 3 };
      const cases: [Partial<GateConfig>, number[], number[]][] = [
        [{}, [0, 0, 0, 0, 0, 0, 0, 0], [0, 1, 2]],
        [{}, [1, 2, 1, 2, 1, 3, 1, 2], [5, 1, 3]],
        [{ score: "softmaxOfChosen" }, [-1, -2, -1, -1, -1, -3, -1, -2], [0, 2, 3]],
        // Sigmoids of large logits are all 1.
        [{ score: "sigmoid" }, [-1, 90, 95, -1, 80, 99, 90, -2], [1, 2, 4]],
        [{ groups: { count: 4, used: 2, rank: "max" } }, [0, 1, 1, 1, 0, 1, 1, 1], [1, 2, 3]],
        [{ groups: { count: 4, used: 2, rank: "topTwo" } }, [0, 3, 1, 1, 1, 1, 1, 1], [1, 2, 3]],
        [{ groups: { count: 4, used: 2, rank: "topTwo" } }, [1, 0, 2, 2, 1, 3, 2, 2], [5, 2, 3]],
      ];
      for (const [change, logits, expected] of cases) {
        const config = { ...base, ...change };
        const { expertIds } = await runGate(backend, exactCase(config, logits));
        for (let row = 0; row < 5; row++) {
          const ids = [...expertIds.subarray(3 * row, 3 * row + 3)];
          assertEquals(ids, expected, JSON.stringify({ change, logits }));
        }
      }
    });
  });

  Deno.test(`${name}: the gate keeps its numbers where logits are far apart`, async () => {
    await withBackend(open, async (backend) => {
      for (const score of ["softmax", "sigmoid", "softmaxOfChosen"] as const) {
        const config: GateConfig = { ...PLAIN, score, experts: 4, hidden: 12 };
        const { weights } = await runGate(backend, exactCase(config, [-300, 300, -300, 80]));
        for (let row = 0; row < 5; row++) {
          const [first, second] = weights.subarray(2 * row, 2 * row + 2);
          if (score === "sigmoid") assertEquals([first, second], [0.5, 0.5]);
          else {
            assertEquals(first, 1);
            // exp(-220) is 0 in float32.
            assert(second >= 0 && second < 1e-37, `the second weight is ${second}`);
          }
        }
      }
    });
  });

  Deno.test(`${name}: a row is routed with the same bits alone and in any batch`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, [title, config]] of Object.entries(CONFIGS).entries()) {
        await t.step(title, async () => {
          const whole = gateCase(config, { rows: 65, seed: 2400 + index });
          const together = await runGate(backend, whole);
          const { hidden, topK } = config;
          for (const range of [[0, 1], [64, 65], [7, 16]] as [number, number][]) {
            const [from, to] = range;
            const expected = {
              normed: together.normed.slice(from * hidden, to * hidden),
              expertIds: together.expertIds.slice(from * topK, to * topK),
              weights: together.weights.slice(from * topK, to * topK),
            };
            const alone = await runGate(backend, partOf(whole, range));
            assertSameRouting(alone, expected, `rows from ${from}`);
          }
        });
      }
    });
  });

  if (openTwin === undefined) return;
  Deno.test(`${name}: another number of threads routes with the same bits`, async () => {
    await withBackend(open, async (one) => {
      await withBackend(openTwin, async (other) => {
        for (const [index, [title, config]] of Object.entries(CONFIGS).entries()) {
          for (const rows of [1, 17]) {
            const test = gateCase(config, { rows, seed: 2500 + index });
            assertSameRouting(await runGate(one, test), await runGate(other, test), title);
          }
        }
      });
    });
  });
}
