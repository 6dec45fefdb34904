/** The part of the conformance suite about products with a matrix, over every type and awkward shape. */

import { assertEquals } from "@std/assert";
import type { Backend, LinearParams } from "../../src/backend/backend.ts";
import { TENSOR_TYPES, type TensorType } from "../../src/quant/types.ts";
import { largestOf, magnitudeOf, normed, product, rowOf, silu } from "./_expected.ts";
import {
  assertSameBits,
  type Conformance,
  filled,
  sampled,
  uploadVector,
  withBackend,
} from "./_harness.ts";
import { generator, normals, randomWeight, type TestWeight } from "./_random.ts";
import {
  dotTolerance,
  ErrorTally,
  type ProductPrecision,
  sumRounding,
  UNIT_ROUNDOFF,
} from "./_tolerance.ts";

const TYPES = Object.keys(TENSOR_TYPES) as TensorType[];
/** Types that a kernel reads directly. */
export const KERNEL_TYPES = TYPES.filter((type) => TENSOR_TYPES[type].kernel !== null);
const CONVERTED_TYPES = TYPES.filter((type) => TENSOR_TYPES[type].kernel === null);

/** Backends may have other kernels for few rows: for the first five. */
const BATCHES = [1, 2, 3, 5, 8, 17, 64, 65];
const FEW_BATCHES = 5;
const OUTPUT_ROWS = [64, 2, 13, 8, 67, 5, 40, 21];
const EPS = 1e-5;

/** Row lengths of a type, none of them tidy where the block allows it. */
function colsOf(type: TensorType): number[] {
  const { blockValues } = TENSOR_TYPES[type];
  if (blockValues === 1) return [100, 7, 33, 576, 1, 64, 20, 130];
  return blockValues >= 256 ? [256, 768, 512] : [1, 3, 5, 17, 2, 8, 18].map((n) => n * blockValues);
}

/** One linear op with everything it works on. */
interface LinearCase {
  readonly type: TensorType;
  readonly rows: number;
  readonly cols: number;
  readonly weight: TestWeight;
  readonly x: Float32Array;
  readonly norm: Float32Array | undefined;
  readonly bias: TestWeight | undefined;
  /** Content of the output before, where the op adds to it. */
  readonly previous: Float32Array | undefined;
  /** Factor on the product. */
  readonly scale: number;
}

function linearCase(
  type: TensorType,
  options: { outputs: number; cols: number; rows: number; variant: number; seed: number },
): LinearCase {
  const { outputs, cols, rows, variant, seed } = options;
  const random = generator(seed);
  return {
    type,
    rows,
    cols,
    weight: randomWeight(random, { name: `${type} weight`, type, rows: outputs, cols }),
    x: normals(random, { length: rows * cols, scale: 1.5 }),
    norm: variant & 1 ? normals(random, { length: cols }) : undefined,
    bias: variant & 2
      ? randomWeight(random, { name: "bias", type: "F32", rows: 1, cols: outputs })
      : undefined,
    previous: variant & 4 ? normals(random, { length: rows * outputs }) : undefined,
    scale: variant % 3 === 1 ? 0.22 : 1,
  };
}

async function runLinear(backend: Backend, test: LinearCase): Promise<Float32Array> {
  const { weight, bias, rows, cols } = test;
  const outputs = weight.data.rows;
  const out = filled(backend, outputs, test.previous ?? new Float32Array(rows * outputs).fill(NaN));
  const params: LinearParams = {
    x: filled(backend, cols, test.x),
    ...(test.norm && { norm: { weight: await uploadVector(backend, test.norm), eps: EPS } }),
    outputs: [{
      weight: await backend.upload(weight.data),
      ...(bias && { bias: await backend.upload(bias.data) }),
      out,
      ...(test.previous && { accumulate: true }),
      ...(test.scale !== 1 && { scale: test.scale }),
    }],
    rows,
  };
  backend.submit(backend.record((ops) => ops.linear(params)));
  return await backend.read(out, { rows });
}

function tallyLinear(
  tally: ErrorTally,
  options: { test: LinearCase; actual: Float32Array; precision: ProductPrecision },
): void {
  const { test, actual, precision } = options;
  const { type, weight, rows, cols, bias, previous, scale } = test;
  const outputs = weight.data.rows;
  for (let t = 0; t < rows; t++) {
    const raw = rowOf(test.x, t, cols);
    const x = test.norm ? normed(raw, { weight: test.norm, eps: EPS }) : Float64Array.from(raw);
    for (let r = 0; r < outputs; r++) {
      const row = rowOf(weight.values, r, cols);
      const added = [bias?.values[r] ?? 0, previous?.[t * outputs + r] ?? 0];
      const { rounding, deviation } = dotTolerance({
        type,
        precision,
        weight: row,
        x,
        added: Math.abs(added[0]) + Math.abs(added[1] / scale),
      });
      tally.add(actual[t * outputs + r], {
        expected: scale * (product(row, x) + added[0]) + added[1],
        tolerance: { rounding: scale * rounding, deviation: scale * deviation },
        at: `row ${t}, output ${r} of ${rows}x${cols} by ${outputs}`,
      });
    }
  }
}

export function linearTests(suite: Conformance): void {
  const { name, open, openTwin, halves } = suite;
  const precisionOf = ({ activations }: Backend): ProductPrecision =>
    halves && activations === "q8" ? "halves" : activations;

  Deno.test(`${name}: linear is right for every type, shape, bias, norm and accumulation`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, type] of KERNEL_TYPES.entries()) {
        await t.step(type, async () => {
          const tally = new ErrorTally(`linear of ${type}`);
          // Of few rows, and of many for every third type.
          const many = index % 3 === 0 ? FEW_BATCHES + index / 3 % 3 : -1;
          const tried = (i: number) => i === index % FEW_BATCHES || i === many;
          for (const [i, rows] of sampled(BATCHES, suite, tried)) {
            const cols = colsOf(type);
            const test = linearCase(type, {
              outputs: OUTPUT_ROWS[(i + index) % OUTPUT_ROWS.length],
              cols: cols[i % cols.length],
              rows,
              variant: i,
              seed: 100 * index + i,
            });
            const actual = await runLinear(backend, test);
            tallyLinear(tally, { test, actual, precision: precisionOf(backend) });
          }
          tally.finish();
        });
      }
    });
  });

  Deno.test(`${name}: linear gives several outputs of different types from one input`, async () => {
    await withBackend(open, async (backend) => {
      const random = generator(7);
      const [rows, cols] = [5, 256];
      const x = normals(random, { length: rows * cols });
      const norm = normals(random, { length: cols });
      const types = ["Q4_K", "Q8_0", "F16"] as const;
      const tests = types.map((type, i): LinearCase => ({
        ...linearCase(type, { outputs: 24 + 9 * i, cols, rows, variant: 2, seed: 70 + i }),
        x,
        norm,
        scale: [1, 0.5, 3][i],
      }));
      const outputs = await Promise.all(tests.map(async ({ weight, bias, scale }) => ({
        scale,
        weight: await backend.upload(weight.data),
        bias: await backend.upload((bias as TestWeight).data),
        out: backend.createBuffer({ kind: "f32", rows, width: weight.data.rows }),
      })));
      const input = filled(backend, cols, x);
      const weight = await uploadVector(backend, norm);
      backend.submit(
        backend.record((ops) =>
          ops.linear({ x: input, norm: { weight, eps: EPS }, outputs, rows })
        ),
      );
      for (const [i, test] of tests.entries()) {
        const tally = new ErrorTally(`output ${i}`);
        const actual = await backend.read(outputs[i].out);
        tallyLinear(tally, { test, actual, precision: precisionOf(backend) });
        tally.finish();
      }
      assertEquals(await backend.read(input), x, "the norm must not change the op's input");
    });
  });

  Deno.test(`${name}: types without a kernel are converted, and said to be`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, type] of CONVERTED_TYPES.entries()) {
        await t.step(type, async () => {
          const cols = 2 * Math.max(256, TENSOR_TYPES[type].blockValues);
          const test = linearCase(type, {
            outputs: 19,
            cols,
            rows: 3,
            variant: 0,
            seed: 900 + index,
          });
          const before = backend.conversions.length;
          const actual = await runLinear(backend, test);
          // A backend that dequantises everything has nothing to convert.
          const converted = backend.conversions.length > before;
          assertEquals(
            backend.conversions.slice(before).every((line) => line.includes(type)),
            true,
          );
          for (let row = 0; row < test.rows; row++) {
            const x = Float64Array.from(rowOf(test.x, row, cols));
            for (let r = 0; r < 19; r++) {
              const weight = rowOf(test.weight.values, r, cols);
              const tolerance = convertedTolerance({ weight, x, converted });
              const error = Math.abs(actual[row * 19 + r] - product(weight, x));
              if (!(error <= tolerance)) {
                throw new Error(`row ${row}, output ${r} is off by ${error}, at most ${tolerance}`);
              }
            }
          }
        });
      }
    });
  });

  Deno.test(`${name}: gatedLinear is right for every type`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, type] of KERNEL_TYPES.entries()) {
        await t.step(type, async () => {
          const precision = precisionOf(backend);
          await checkGatedLinear(backend, { suite, type, index, precision });
        });
      }
    });
  });

  Deno.test(`${name}: one weight serves as embedding and as output matrix`, async () => {
    await withBackend(open, async (backend) => {
      const test = linearCase("Q8_0", { outputs: 67, cols: 96, rows: 3, variant: 0, seed: 41 });
      const weight = await backend.upload(test.weight.data);
      const ids = filled(backend, 1, Int32Array.of(66, 3, 20));
      const x = backend.createBuffer({ kind: "f32", rows: 3, width: 96 });
      const out = backend.createBuffer({ kind: "f32", rows: 3, width: 67 });
      backend.submit(backend.record((ops) => {
        ops.embed({ table: weight, ids, out: x, rows: 3 });
        ops.linear({ x, outputs: [{ weight, out }], rows: 3 });
      }));
      const tally = new ErrorTally("the tied matrix");
      const actual = await backend.read(out);
      const tied = { ...test, x: await backend.read(x) };
      tallyLinear(tally, { test: tied, actual, precision: precisionOf(backend) });
      tally.finish();
    });
  });

  Deno.test(`${name}: a plan runs on what its buffers hold when it is submitted`, async () => {
    await withBackend(open, async (backend) => {
      const test = linearCase("F32", { outputs: 9, cols: 20, rows: 2, variant: 0, seed: 3 });
      const weight = await backend.upload(test.weight.data);
      const x = backend.createBuffer({ kind: "f32", rows: 2, width: 20 });
      const out = backend.createBuffer({ kind: "f32", rows: 2, width: 9 });
      const plan = backend.record((ops) => ops.linear({ x, outputs: [{ weight, out }], rows: 2 }));
      for (const seed of [1, 2]) {
        const input = normals(generator(seed), { length: 40 });
        // The second row first: a write may cover any rows.
        backend.write(x, input.slice(20), 1);
        backend.write(x, input.slice(0, 20));
        backend.submit(plan);
        const actual = await backend.read(out);
        assertEquals(await backend.read(out, { row: 1, rows: 1 }), actual.slice(9));
        const tally = new ErrorTally(`input ${seed}`);
        tallyLinear(tally, {
          test: { ...test, x: input },
          actual,
          precision: precisionOf(backend),
        });
        tally.finish();
      }
    });
  });

  Deno.test(`${name}: a row's linear output has the same bits alone and in any batch`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, type] of sampled(KERNEL_TYPES, suite, (index) => index % 3 === 0)) {
        await t.step(type, async () => {
          const cols = colsOf(type)[1];
          const whole = linearCase(type, { outputs: 67, cols, rows: 65, variant: 7, seed: index });
          const together = await runLinear(backend, whole);
          for (
            const { from, rows } of [{ from: 0, rows: 1 }, { from: 64, rows: 1 }, {
              from: 7,
              rows: 9,
            }]
          ) {
            const part = {
              ...whole,
              rows,
              x: whole.x.slice(from * cols, (from + rows) * cols),
              previous: whole.previous?.slice(from * 67, (from + rows) * 67),
            };
            const alone = await runLinear(backend, part);
            assertSameBits(
              alone,
              together.slice(from * 67, (from + rows) * 67),
              `rows from ${from}`,
            );
          }
        });
      }
    });
  });

  if (openTwin !== undefined) {
    Deno.test(`${name}: another number of threads gives the same bits`, async (t) => {
      await withBackend(open, async (one) => {
        await withBackend(openTwin, async (other) => {
          for (const [index, type] of KERNEL_TYPES.entries()) {
            await t.step(type, async () => {
              for (const rows of [1, 17]) {
                const cols = colsOf(type)[2];
                const test = linearCase(type, { outputs: 67, cols, rows, variant: 7, seed: index });
                assertSameBits(await runLinear(one, test), await runLinear(other, test), type);
              }
            });
          }
        });
      });
    });
  }
}

async function checkGatedLinear(
  backend: Backend,
  options: { suite: Conformance; type: TensorType; index: number; precision: ProductPrecision },
): Promise<void> {
  const { suite, type, index, precision } = options;
  const tally = new ErrorTally(`gatedLinear of ${type}`);
  const tried = (i: number) => i === index % 3 || i === 3 && index % 4 === 1;
  for (const [i, rows] of sampled([1, 3, 8, 65], suite, tried)) {
    const cols = colsOf(type)[i % colsOf(type).length];
    const outputs = OUTPUT_ROWS[(i + index) % OUTPUT_ROWS.length];
    const shape = { outputs, cols, rows };
    const gate = linearCase(type, { ...shape, variant: i & 1, seed: 500 + 10 * index + i });
    const up = linearCase(type, { ...shape, variant: 0, seed: 700 + 10 * index + i });
    const out = backend.createBuffer({ kind: "f32", rows, width: outputs });
    const params = {
      x: filled(backend, cols, gate.x),
      ...(gate.norm && { norm: { weight: await uploadVector(backend, gate.norm), eps: EPS } }),
      gate: await backend.upload(gate.weight.data),
      up: await backend.upload(up.weight.data),
      activation: "silu" as const,
      out,
      rows,
    };
    backend.submit(backend.record((ops) => ops.gatedLinear(params)));
    const actual = await backend.read(out);
    for (let t = 0; t < rows; t++) {
      const raw = rowOf(gate.x, t, cols);
      const x = gate.norm ? normed(raw, { weight: gate.norm, eps: EPS }) : Float64Array.from(raw);
      for (let r = 0; r < outputs; r++) {
        const weights = [gate, up].map((test) => rowOf(test.weight.values, r, cols));
        const [g, u] = weights.map((weight) => product(weight, x));
        const [tg, tu] = weights.map((weight) =>
          dotTolerance({ type, precision, weight, x, added: 0 })
        );
        // silu's slope is at most 1.1; exp and the division add a few roundings.
        const [slope, height] = [1.1 * Math.abs(u), Math.abs(silu(g))];
        tally.add(actual[t * outputs + r], {
          expected: silu(g) * u,
          tolerance: {
            rounding: slope * tg.rounding + height * tu.rounding +
              (16 + Math.abs(g)) * UNIT_ROUNDOFF * Math.abs(silu(g) * u) +
              36 * tg.deviation * tu.deviation,
            deviation: Math.hypot(slope * tg.deviation, height * tu.deviation),
          },
          at: `row ${t}, output ${r} of ${rows}x${cols} by ${outputs}`,
        });
      }
    }
  }
  tally.finish();
}

/** Eight-bit weights in blocks of 32 and eight-bit activations, both at their worst. */
function convertedTolerance(
  options: { weight: Float32Array; x: Float64Array; converted: boolean },
): number {
  const { weight, x, converted } = options;
  const rounding = sumRounding(x.length, 2 * magnitudeOf(weight, x));
  if (!converted) return rounding;
  const [w, a] = [largestOf([weight]), largestOf([x])];
  const norm = (values: ArrayLike<number>) => Math.sqrt(product(values, values));
  const noise = Math.hypot(norm(weight) * a, norm(x) * w) / (127 * Math.sqrt(12));
  return rounding + 6 * noise;
}
