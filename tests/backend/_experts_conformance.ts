/** The part of the conformance suite about the routed experts. */

import {
  type Backend,
  type Experts,
  type ExpertsParams,
  type ExpertTensors,
  NO_EXPERT,
} from "../../src/backend/backend.ts";
import { FormatError } from "../../src/errors.ts";
import { TENSOR_TYPES, type TensorType } from "../../src/quant/types.ts";
import { assertRejects } from "@std/assert";
import { product, rowOf } from "./_expected.ts";
import { assertSameBits, type Conformance, filled, sampled, withBackend } from "./_harness.ts";
import { generator, normals, randomWeight, type TestWeight } from "./_random.ts";
import {
  dotTolerance,
  ErrorTally,
  sumRounding,
  type Tolerance,
  UNIT_ROUNDOFF,
} from "./_tolerance.ts";

/** Types of gate, up and down. */
type Types = readonly [gate: TensorType, up: TensorType, down: TensorType];

const SAME = [
  "F32",
  "BF16",
  "F16",
  "Q8_0",
  "Q4_0",
  "Q5_0",
  "MXFP4",
  "IQ4_NL",
  "Q4_K",
  "Q6_K",
  "F8_E4M3",
] as const;
const TYPES: readonly Types[] = [
  ...SAME.map((type): Types => [type, type, type]),
  ["Q4_K", "Q4_K", "Q6_K"],
  ["Q8_0", "Q4_0", "Q5_0"],
  ["F32", "BF16", "F16"],
  ["Q4_K", "Q4_K", "Q8_0"],
  ["MXFP4", "Q8_0", "F16"],
];

const COUNT = 6;

interface Case {
  readonly types: Types;
  readonly hidden: number;
  readonly intermediate: number;
  readonly rows: number;
  readonly topK: number;
  readonly activation: ExpertsParams["activation"];
  readonly scale: number;
  /** By expert: gate, up, down, and as many biases or none. */
  readonly matrices: readonly (readonly TestWeight[])[];
  readonly biases: readonly (readonly TestWeight[])[] | undefined;
  readonly x: Float32Array;
  readonly expertIds: Int32Array;
  readonly weights: Float32Array;
  readonly previous: Float32Array;
}

/** Who chooses what: anybody anything but expert 0; all of them expert 3 first; in turn. */
const CHOICES = ["random", "oneHot", "inTurn"] as const;
type Choice = typeof CHOICES[number];

const isThird = (index: number) => index % 3 === 0;

/** Hidden and intermediate widths, none of them tidy where the blocks allow it. */
function shapeOf(types: Types, variant: number): { hidden: number; intermediate: number } {
  const block = Math.max(...types.map((type) => TENSOR_TYPES[type].blockValues));
  if (block === 1) {
    return [{ hidden: 20, intermediate: 24 }, { hidden: 100, intermediate: 36 }][variant];
  }
  if (block === 32) {
    return [{ hidden: 96, intermediate: 32 }, { hidden: 64, intermediate: 160 }][variant];
  }
  return { hidden: 256, intermediate: 256 };
}

function caseOf(
  types: Types,
  options: { rows: number; variant: number; choice: Choice; seed: number },
): Case {
  const { rows, variant, choice, seed } = options;
  const random = generator(seed);
  const { hidden, intermediate } = shapeOf(types, variant & 1);
  const topK = choice === "random" ? 2 : 1 + variant % 3;
  const shapes = [[intermediate, hidden], [intermediate, hidden], [hidden, intermediate]];
  const weightsOf = (e: number) =>
    shapes.map(([outputs, cols], i) =>
      randomWeight(random, { name: `expert ${e}`, type: types[i], rows: outputs, cols })
    );
  const biasesOf = (e: number) =>
    shapes.map(([outputs]) =>
      randomWeight(random, { name: `bias ${e}`, type: "F32", rows: 1, cols: outputs })
    );
  const all = Array.from({ length: COUNT }, (_, e) => e);
  return {
    types,
    hidden,
    intermediate,
    rows,
    topK,
    activation: variant & 2 ? "clampedSwiglu" : "silu",
    scale: variant === 1 ? 2.5 : 1,
    matrices: all.map(weightsOf),
    biases: variant & 2 ? all.map(biasesOf) : undefined,
    x: normals(random, { length: rows * hidden }),
    expertIds: Int32Array.from(
      Array.from({ length: rows }, (_, t) => idsOf(random, { choice, topK, row: t })).flat(),
    ),
    weights: Float32Array.from({ length: rows * topK }, () => 0.1 + random()),
    previous: normals(random, { length: rows * hidden }),
  };
}

/** Distinct experts of one row. */
function idsOf(
  random: () => number,
  { choice, topK, row }: { choice: Choice; topK: number; row: number },
): number[] {
  if (choice === "inTurn") return Array.from({ length: topK }, (_, j) => (row + j) % COUNT);
  const pool = choice === "oneHot" ? [0, 1, 2, 4, 5] : [1, 2, 3, 4, 5];
  const ids = pool.map((id) => ({ id, key: random() })).sort((a, b) => a.key - b.key)
    .map(({ id }) => id);
  return choice === "oneHot" ? [3, ...ids].slice(0, topK) : ids.slice(0, topK);
}

/** The experts of a case from `from` to `to`, all of them by default. */
function tensorsOf({ matrices, biases }: Case, [from, to] = [0, COUNT]): ExpertTensors {
  const part = (of: readonly (readonly TestWeight[])[], i: number) =>
    of.slice(from, to).map((e) => e[i].data);
  return {
    layer: 1,
    gate: part(matrices, 0),
    up: part(matrices, 1),
    down: part(matrices, 2),
    ...(biases &&
      { biases: { gate: part(biases, 0), up: part(biases, 1), down: part(biases, 2) } }),
  };
}

async function run(
  backend: Backend,
  test: Case,
  uploaded?: Experts,
): Promise<Float32Array> {
  const { hidden, topK, activation, scale, rows } = test;
  const experts = uploaded ?? await backend.uploadExperts(tensorsOf(test));
  const out = filled(backend, hidden, test.previous);
  const params: ExpertsParams = {
    x: filled(backend, hidden, test.x),
    experts,
    expertIds: filled(backend, topK, test.expertIds),
    weights: filled(backend, topK, test.weights),
    topK,
    activation,
    ...(scale !== 1 && { scale }),
    out,
    rows,
  };
  backend.submit(backend.record((ops) => ops.experts(params)));
  return await backend.read(out);
}

/** A number with what a backend's may be off by. */
interface Uncertain extends Tolerance {
  readonly value: number;
}

const LIMIT = 7;
const ALPHA = 1.702;
/** What `x * sigmoid(a x)` rises by at most, whatever a is. */
const STEEPEST = 1.1;

/** One value between gate/up and down. */
function activated(
  activation: ExpertsParams["activation"],
  { gate, up }: { gate: Uncertain; up: Uncertain },
): Uncertain {
  const clamped = activation === "clampedSwiglu";
  const g = clamped ? Math.min(gate.value, LIMIT) : gate.value;
  const factor = clamped ? Math.max(-LIMIT, Math.min(up.value, LIMIT)) + 1 : up.value;
  const alpha = clamped ? ALPHA : 1;
  const sigmoid = 1 / (1 + Math.exp(-alpha * g));
  const height = g * sigmoid;
  const value = height * factor;
  // Errors of a factor, to first order, then the product of both and the curve's bend (at most alpha / 2).
  const slope = Math.abs(sigmoid * (1 + alpha * g * (1 - sigmoid)));
  const bend = alpha / 2 * gate.deviation ** 2;
  const deviation = Math.hypot(
    slope * factor * gate.deviation,
    height * up.deviation,
    STEEPEST * gate.deviation * up.deviation,
    bend * factor,
  );
  const rounding = STEEPEST * Math.abs(factor) * gate.rounding + Math.abs(height) * up.rounding +
    (16 + alpha * Math.abs(g)) * UNIT_ROUNDOFF * (Math.abs(value) + Math.abs(height));
  return { value, rounding, deviation };
}

/** One output of a product with an exact input. */
function dotOf(
  backend: Backend,
  options: { weight: TestWeight; row: number; x: Float64Array; bias: number },
): Uncertain {
  const { weight, row, x, bias } = options;
  const values = rowOf(weight.values, row, x.length);
  const { type } = weight.data;
  const precision = backend.activations;
  const tolerance = dotTolerance({ type, precision, weight: values, x, added: Math.abs(bias) });
  return { value: product(values, x) + bias, ...tolerance };
}

/** One expert's output for one row. */
function expertOf(
  backend: Backend,
  options: { test: Case; expert: number; x: Float64Array },
): Uncertain[] {
  const { test, expert, x } = options;
  const [gate, up, down] = test.matrices[expert];
  const [gateBias, upBias, downBias] = test.biases?.[expert] ?? [];
  const middle = Array.from({ length: test.intermediate }, (_, row) =>
    activated(test.activation, {
      gate: dotOf(backend, { weight: gate, row, x, bias: gateBias?.values[row] ?? 0 }),
      up: dotOf(backend, { weight: up, row, x, bias: upBias?.values[row] ?? 0 }),
    }));
  const values = Float64Array.from(middle, ({ value }) => value);
  return Array.from({ length: test.hidden }, (_, row) => {
    const bias = downBias?.values[row] ?? 0;
    const own = dotOf(backend, { weight: down, row, x: values, bias });
    // Weights are random, so errors of values in the middle are as good as independent.
    let { rounding } = own;
    let variance = own.deviation ** 2;
    middle.forEach((error, i) => {
      const w = down.values[row * test.intermediate + i];
      rounding += Math.abs(w) * error.rounding;
      variance += (w * error.deviation) ** 2;
    });
    return { value: own.value, rounding, deviation: Math.sqrt(variance) };
  });
}

function tallyExperts(
  tally: ErrorTally,
  { backend, test, actual }: { backend: Backend; test: Case; actual: Float32Array },
): void {
  const { hidden, topK, scale, rows } = test;
  for (let t = 0; t < rows; t++) {
    const x = Float64Array.from(rowOf(test.x, t, hidden));
    const slots = Array.from({ length: topK }, (_, j) => t * topK + j)
      .filter((slot) => test.expertIds[slot] !== NO_EXPERT);
    const parts = slots.map((slot) => ({
      factor: scale * test.weights[slot],
      outputs: expertOf(backend, { test, expert: test.expertIds[slot], x }),
    }));
    for (let i = 0; i < hidden; i++) {
      let expected = test.previous[t * hidden + i];
      let magnitude = Math.abs(expected);
      let [rounding, variance] = [0, 0];
      for (const { factor, outputs } of parts) {
        const { value, ...error } = outputs[i];
        expected += factor * value;
        magnitude += Math.abs(factor * value);
        rounding += factor * error.rounding;
        variance += (factor * error.deviation) ** 2;
      }
      rounding += sumRounding(topK, magnitude);
      tally.add(actual[t * hidden + i], {
        expected,
        tolerance: { rounding, deviation: Math.sqrt(variance) },
        at: `row ${t} of ${rows}, value ${i} of ${hidden} through ${test.intermediate}`,
      });
    }
  }
}

/** Rows `from` to `to` of a case. */
function partOf(test: Case, [from, to]: readonly [number, number]): Case {
  const { hidden, topK } = test;
  return {
    ...test,
    rows: to - from,
    x: test.x.slice(from * hidden, to * hidden),
    previous: test.previous.slice(from * hidden, to * hidden),
    expertIds: test.expertIds.slice(from * topK, to * topK),
    weights: test.weights.slice(from * topK, to * topK),
  };
}

/** Batches with their variants: every one of shape, activation, biases, scale and choice occurs. */
const RUNS: readonly { rows: number; variant: number; choice: Choice }[] = [
  { rows: 1, variant: 0, choice: "random" },
  { rows: 5, variant: 1, choice: "random" },
  { rows: 2, variant: 2, choice: "inTurn" },
  { rows: 17, variant: 3, choice: "oneHot" },
  { rows: 7, variant: 1, choice: "inTurn" },
];

export function expertsTests(suite: Conformance): void {
  const { name, open, openTwin } = suite;
  Deno.test(`${name}: experts add their weighted outputs, for every type, shape and choice`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, types] of TYPES.entries()) {
        await t.step(types.join(", "), async () => {
          const tally = new ErrorTally(`experts of ${types}`);
          const tried = (i: number) => i === index % RUNS.length || index % 8 === 0;
          for (const [i, options] of sampled(RUNS, suite, tried)) {
            const test = caseOf(types, { ...options, seed: 3000 + 10 * index + i });
            tallyExperts(tally, { backend, test, actual: await run(backend, test) });
          }
          tally.finish();
        });
      }
    });
  });

  Deno.test(`${name}: one expert serves many rows at once`, async () => {
    await withBackend(open, async (backend) => {
      for (
        const [index, types] of ([["Q8_0", "Q8_0", "Q8_0"], ["F16", "F16", "F16"]] as const)
          .entries()
      ) {
        const options = { rows: 65, variant: 0, choice: "oneHot", seed: 3300 + index } as const;
        const test = caseOf(types, options);
        const tally = new ErrorTally(`one expert of ${types}`);
        tallyExperts(tally, { backend, test, actual: await run(backend, test) });
        tally.finish();
      }
    });
  });

  Deno.test(`${name}: experts give a row the same bits alone and in any batch`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, types] of sampled(TYPES, suite, isThird)) {
        await t.step(types.join(", "), async () => {
          const tried = (i: number) => i === 0 || i === 1 + index % 2;
          for (const [, choice] of sampled(CHOICES, suite, tried)) {
            const seed = 3400 + index;
            const whole = caseOf(types, { rows: 33, variant: index % 4, choice, seed });
            const together = await run(backend, whole);
            for (const range of [[0, 1], [32, 33], [7, 16]] as const) {
              const [from, to] = range;
              const alone = await run(backend, partOf(whole, range));
              const expected = together.slice(from * whole.hidden, to * whole.hidden);
              assertSameBits(alone, expected, `rows from ${from}, ${choice}`);
            }
          }
        });
      }
    });
  });

  Deno.test(`${name}: the order of a row's experts does not change its bits`, async () => {
    await withBackend(open, async (backend) => {
      const types = ["Q8_0", "Q8_0", "Q8_0"] as const;
      const test = caseOf(types, { rows: 9, variant: 1, choice: "random", seed: 3500 });
      const { topK } = test;
      const turned = <T extends Float32Array | Int32Array>(values: T) =>
        values.map((_, i) => values[i - i % topK + (topK - 1 - i % topK)]) as T;
      const other = { ...test, expertIds: turned(test.expertIds), weights: turned(test.weights) };
      assertSameBits(await run(backend, other), await run(backend, test), "turned around");
    });
  });

  Deno.test(`${name}: an expert that is replaced is the other one, and its neighbours stay`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, types] of sampled(TYPES, suite, isThird)) {
        await t.step(types.join(", "), async () => {
          const options = { rows: 9, variant: index % 4, choice: "inTurn" } as const;
          const test = caseOf(types, { ...options, seed: 3800 + index });
          const other = caseOf(types, { ...options, seed: 3900 + index });
          const experts = await backend.uploadExperts(tensorsOf(test));
          await run(backend, test, experts);
          for (const slot of [COUNT - 1, 0]) {
            const tensors = tensorsOf(other, [2, 3]);
            await backend.replaceExpert(experts, { slot, tensors });
          }
          const replaced = <T>(list: readonly T[], by: readonly T[]) =>
            list.map((mine, e) => e === 0 || e === COUNT - 1 ? by[2] : mine);
          const expected = {
            ...test,
            matrices: replaced(test.matrices, other.matrices),
            biases: test.biases && replaced(test.biases, other.biases!),
          };
          const fresh = await run(backend, expected);
          assertSameBits(await run(backend, test, experts), fresh, "the replaced");
        });
      }
    });
  });

  Deno.test(`${name}: an expert of another shape, type or number does not replace one`, async () => {
    await withBackend(open, async (backend) => {
      const options = { rows: 1, variant: 0, choice: "random", seed: 3950 } as const;
      const test = caseOf(["Q8_0", "Q8_0", "Q8_0"], options);
      const biased = caseOf(["Q8_0", "Q8_0", "Q8_0"], { ...options, variant: 2 });
      const wide = caseOf(["Q8_0", "Q8_0", "Q8_0"], { ...options, variant: 1 });
      const experts = await backend.uploadExperts(tensorsOf(test));
      for (
        const [slot, tensors, message] of [
          [0, tensorsOf(test, [0, 2]), "the number of experts is 2, must be 1"],
          [0, tensorsOf(wide, [0, 1]), "expert 0 is [160, 64], must be [32, 96]"],
          [0, tensorsOf(biased, [0, 1]), "its biases is there, must be missing"],
        ] as const
      ) {
        const replacing = backend.replaceExpert(experts, { slot, tensors });
        await assertRejects(() => replacing, FormatError, message);
      }
      for (const slot of [-1, COUNT, 0.5]) {
        const replacing = backend.replaceExpert(experts, {
          slot,
          tensors: tensorsOf(test, [0, 1]),
        });
        await assertRejects(() => replacing, RangeError, `its slot is ${slot}, must be 0 to 5`);
      }
    });
  });

  if (openTwin === undefined) return;
  Deno.test(`${name}: experts give the same bits on another number of threads`, async (t) => {
    await withBackend(open, async (one) => {
      await withBackend(openTwin, async (other) => {
        for (const [index, types] of TYPES.entries()) {
          await t.step(types.join(", "), async () => {
            for (const [i, options] of RUNS.entries()) {
              const test = caseOf(types, { ...options, seed: 3600 + 10 * index + i });
              assertSameBits(await run(one, test), await run(other, test), `run ${i}`);
            }
          });
        }
      });
    });
  });
}

/** Declares the tests of ids that stand for no expert. */
export function noExpertTests(suite: Conformance): void {
  const { name, open } = suite;
  Deno.test(`${name}: no expert adds nothing, and rows that have none keep their bits`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, types] of sampled(TYPES.slice(0, 6), suite, isThird)) {
        await t.step(types.join(", "), async () => {
          const tally = new ErrorTally(`some experts of ${types}`);
          for (const rows of [1, 6, 70]) {
            const seed = 3700 + 10 * index + rows;
            const test = caseOf(types, { rows, variant: index % 4, choice: "random", seed });
            // Whatever this leaves behind must not be taken for anybody's values.
            await run(backend, test);
            const random = generator(seed);
            const { hidden, topK } = test;
            const without = test.expertIds.map((id, i) =>
              i < topK || random() < 0.4 ? NO_EXPERT : id
            );
            const some = { ...test, expertIds: without };
            some.previous.fill(-0, 0, hidden);
            const actual = await run(backend, some);
            tallyExperts(tally, { backend, test: some, actual });
            const alone = without.map((id, i) => i < topK ? test.expertIds[i] : id);
            const first = await run(backend, { ...some, expertIds: alone });
            assertSameBits(actual.subarray(hidden), first.subarray(hidden), "company");
            assertSameBits(actual.slice(0, hidden), some.previous.slice(0, hidden), "no expert");
          }
          tally.finish();
        });
      }
    });
  });
}
