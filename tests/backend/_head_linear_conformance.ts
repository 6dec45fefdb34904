/** The part of the conformance suite about products with a matrix per head. */

import type { Backend } from "../../src/backend/backend.ts";
import type { TensorType } from "../../src/quant/types.ts";
import { product, rowOf } from "./_expected.ts";
import { assertSameBits, type Conformance, filled, sampled, withBackend } from "./_harness.ts";
import { generator, normals, randomWeight, type TestWeight } from "./_random.ts";
import { dotTolerance, ErrorTally } from "./_tolerance.ts";

interface Shape {
  readonly type: TensorType;
  readonly heads: number;
  readonly outDim: number;
  readonly cols: number;
  /** Values from one head's input to the next one's. */
  readonly xStride: number;
}

const SHAPES: readonly Shape[] = [
  { type: "F32", heads: 3, outDim: 32, cols: 12, xStride: 20 },
  { type: "F16", heads: 4, outDim: 64, cols: 64, xStride: 64 },
  { type: "BF16", heads: 5, outDim: 24, cols: 20, xStride: 28 },
  { type: "Q8_0", heads: 4, outDim: 32, cols: 64, xStride: 96 },
  { type: "Q8_0", heads: 3, outDim: 24, cols: 128, xStride: 128 },
  { type: "Q5_0", heads: 2, outDim: 48, cols: 96, xStride: 112 },
  { type: "Q4_K", heads: 2, outDim: 40, cols: 256, xStride: 320 },
];

const nameOf = ({ type, heads, outDim, cols, xStride }: Shape) =>
  `${type}, ${heads} heads of ${cols} to ${outDim}, ${xStride} apart`;

interface Case {
  readonly shape: Shape;
  readonly weight: TestWeight;
  readonly x: Float32Array;
  readonly rows: number;
}

function caseOf(shape: Shape, { rows, seed }: { rows: number; seed: number }): Case {
  const { type, heads, outDim, cols, xStride } = shape;
  const random = generator(seed);
  const weight = randomWeight(random, { name: "heads", type, rows: heads * outDim, cols });
  const x = normals(random, { length: rows * heads * xStride, scale: 1.5 });
  return { shape, weight, x, rows };
}

async function run(backend: Backend, { shape, weight, x, rows }: Case): Promise<Float32Array> {
  const { heads, outDim, xStride } = shape;
  const out = backend.createBuffer({ kind: "f32", rows, width: heads * outDim });
  const input = filled(backend, heads * xStride, x);
  const matrix = await backend.upload(weight.data);
  backend.submit(
    backend.record((ops) =>
      ops.headLinear({ x: input, xStride, weight: matrix, heads, out, rows })
    ),
  );
  return await backend.read(out);
}

export function headLinearTests(suite: Conformance): void {
  const { name, open, openTwin } = suite;
  Deno.test(`${name}: headLinear applies each head's matrix to its part of the row`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, shape] of SHAPES.entries()) {
        await t.step(nameOf(shape), async () => {
          const { type, heads, outDim, cols, xStride } = shape;
          const tally = new ErrorTally(nameOf(shape));
          const tried = (i: number) => i === index % 3 || i === 3 + index % 2;
          for (const [, rows] of sampled([1, 2, 5, 17, 65], suite, tried)) {
            const test = caseOf(shape, { rows, seed: 1000 + 10 * index + rows });
            const actual = await run(backend, test);
            for (let t = 0; t < rows; t++) {
              for (let r = 0; r < heads * outDim; r++) {
                const start = t * heads * xStride + Math.floor(r / outDim) * xStride;
                const x = Float64Array.from(test.x.subarray(start, start + cols));
                const weight = rowOf(test.weight.values, r, cols);
                const precision = backend.activations;
                tally.add(actual[t * heads * outDim + r], {
                  expected: product(weight, x),
                  tolerance: dotTolerance({ type, precision, weight, x, added: 0 }),
                  at: `row ${t} of ${rows}, output ${r}`,
                });
              }
            }
          }
          tally.finish();
        });
      }
    });
  });

  Deno.test(`${name}: headLinear has the same bits alone and in any batch`, async () => {
    await withBackend(open, async (backend) => {
      for (const [index, shape] of sampled(SHAPES, suite, (index) => index % 2 === 1)) {
        const whole = caseOf(shape, { rows: 65, seed: 1100 + index });
        const together = await run(backend, whole);
        const [inWidth, outWidth] = [shape.heads * shape.xStride, shape.heads * shape.outDim];
        for (const [from, to] of [[0, 1], [64, 65], [7, 16]]) {
          const x = whole.x.slice(from * inWidth, to * inWidth);
          const alone = await run(backend, { ...whole, x, rows: to - from });
          const expected = together.slice(from * outWidth, to * outWidth);
          assertSameBits(alone, expected, `${nameOf(shape)}, rows from ${from}`);
        }
      }
    });
  });

  if (openTwin === undefined) return;
  Deno.test(`${name}: headLinear has the same bits on another number of threads`, async () => {
    await withBackend(open, async (one) => {
      await withBackend(openTwin, async (other) => {
        for (const [index, shape] of SHAPES.entries()) {
          for (const rows of [1, 17]) {
            const test = caseOf(shape, { rows, seed: 1200 + index });
            assertSameBits(await run(one, test), await run(other, test), nameOf(shape));
          }
        }
      });
    });
  });
}
