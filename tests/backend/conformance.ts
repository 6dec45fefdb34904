/**
 * What every backend must do, for every op, tensor type and awkward shape. Results are held against a
 * float64 evaluation within tolerances that follow from the inputs; what must not depend on the batch
 * or on the number of threads is compared bit by bit.
 */

import { assertEquals } from "@std/assert";
import { TENSOR_TYPES } from "../../src/quant/types.ts";
import { attentionTests } from "./_attention_conformance.ts";
import { chooseTests } from "./_choose_conformance.ts";
import { expertsTests, noExpertTests } from "./_experts_conformance.ts";
import { gateTests } from "./_gate_conformance.ts";
import { headLinearTests } from "./_head_linear_conformance.ts";
import { latentTests } from "./_latent_conformance.ts";
import { kvTypeTests } from "./_kv_types_conformance.ts";
import { KERNEL_TYPES, linearTests } from "./_linear_conformance.ts";
import { pageTests } from "./_pages_conformance.ts";
import { uploadTests } from "./_upload_conformance.ts";
import { largestOf, normed, rowOf } from "./_expected.ts";
import { assertSameBits, type Conformance, filled, uploadVector, withBackend } from "./_harness.ts";
import { generator, normals, randomWeight } from "./_random.ts";
import { ErrorTally, sumRounding, UNIT_ROUNDOFF } from "./_tolerance.ts";

const EPS = 1e-5;

/** Declares the tests of every op. */
export function conformance(suite: Conformance): void {
  roundedOpsConformance(suite);
  exactOpsConformance(suite);
}

/** Declares the tests of what depends on how a backend rounds activations: products with a matrix. */
export function roundedOpsConformance(suite: Conformance): void {
  linearTests(suite);
  headLinearTests(suite);
  expertsTests(suite);
  noExpertTests(suite);
  uploadTests(suite);
  chooseTests(suite);
}

/** Declares the tests of what computes with float32, whatever activations are rounded to. */
export function exactOpsConformance(suite: Conformance): void {
  rowTests(suite);
  attentionTests(suite);
  latentTests(suite);
  kvTypeTests(suite);
  pageTests(suite);
  gateTests(suite);
}

/** Ops that give a row for a row or an id. */
function rowTests({ name, open }: Conformance): void {
  Deno.test(`${name}: embed gives the rows of a table of any type`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const [index, type] of KERNEL_TYPES.entries()) {
        await t.step(type, async () => {
          const random = generator(300 + index);
          const cols = Math.max(96, TENSOR_TYPES[type].blockValues);
          const table = randomWeight(random, { name: "table", type, rows: 37, cols });
          const ids = Int32Array.of(36, 0, 5, 5, 17);
          const rows = ids.length;
          const out = backend.createBuffer({ kind: "f32", rows, width: cols });
          const scaled = backend.createBuffer({ kind: "f32", rows, width: cols });
          const weight = await backend.upload(table.data);
          const input = filled(backend, 1, ids);
          backend.submit(backend.record((ops) => {
            ops.embed({ table: weight, ids: input, out, rows });
            ops.embed({ table: weight, ids: input, out: scaled, scale: 12, rows });
          }));
          const tally = new ErrorTally(`embed of ${type}`);
          for (const [buffer, scale] of [[out, 1], [scaled, 12]] as const) {
            const actual = await backend.read(buffer);
            ids.forEach((id, row) => {
              const expected = rowOf(table.values, id, cols).map((value) => scale * value);
              // A scale times a number plus an offset, times the op's scale, each rounded.
              const largest = largestOf([expected]);
              const tolerance = { rounding: 5 * UNIT_ROUNDOFF * largest, deviation: 0 };
              expected.forEach((value, i) =>
                tally.add(actual[row * cols + i], {
                  expected: value,
                  tolerance,
                  at: `${row}, ${i}`,
                })
              );
            });
          }
          tally.finish();
        });
      }
    });
  });

  Deno.test(`${name}: rmsNorm is right for odd widths`, async () => {
    await withBackend(open, async (backend) => {
      for (const width of [1, 7, 64, 576, 1001]) {
        const random = generator(width);
        const rows = 5;
        const x = normals(random, { length: rows * width, scale: 3 });
        const norm = normals(random, { length: width });
        const out = backend.createBuffer({ kind: "f32", rows, width });
        const input = filled(backend, width, x);
        const weight = await uploadVector(backend, norm);
        backend.submit(backend.record((ops) => {
          ops.rmsNorm({ x: input, weight, eps: EPS, out, rows });
          ops.rmsNorm({ x: input, weight, eps: EPS, out: input, rows });
        }));
        const actual = await backend.read(out);
        assertSameBits(await backend.read(input), actual, `in place, ${width} wide`);
        const tally = new ErrorTally(`rmsNorm of ${width}`);
        for (let row = 0; row < rows; row++) {
          normed(rowOf(x, row, width), { weight: norm, eps: EPS }).forEach((expected, i) =>
            tally.add(actual[row * width + i], {
              expected,
              tolerance: { rounding: sumRounding(width, Math.abs(expected)), deviation: 0 },
              at: `row ${row}, value ${i}`,
            })
          );
        }
        tally.finish();
      }
    });
  });

  Deno.test(`${name}: gatherRows copies rows in any order, some twice`, async () => {
    await withBackend(open, async (backend) => {
      const x = normals(generator(5), { length: 9 * 33 });
      const order = Int32Array.of(8, 0, 3, 3, 7);
      const out = backend.createBuffer({ kind: "f32", rows: 5, width: 33 });
      const input = filled(backend, 33, x);
      const indices = filled(backend, 1, order);
      backend.submit(
        backend.record((ops) => ops.gatherRows({ x: input, indices, out, rows: order.length })),
      );
      const actual = await backend.read(out);
      order.forEach((from, row) => assertEquals(rowOf(actual, row, 33), rowOf(x, from, 33)));
    });
  });

  Deno.test(`${name}: gatherRows puts several rows side by side and keeps their bits, those of integers too`, async () => {
    await withBackend(open, async (backend) => {
      // Numbers that would be NaN as float32, or change when they become one.
      const table = Int32Array.of(0x7fc00001, -1, 2 ** 31 - 1, 2 ** 24 + 1, 5, -7, 0, 1);
      for (const width of [1, 2]) {
        const count = table.length / width;
        const named = Int32Array.of(3, 0, 1, count - 1, 2, 2, 77, 77, 77);
        const out = backend.createBuffer({ kind: "i32", rows: 3, width: 3 * width });
        const x = filled(backend, width, table);
        const indices = filled(backend, 3, named);
        backend.submit(backend.record((ops) => ops.gatherRows({ x, indices, out, rows: 2 })));
        const expected = Array.from(
          named.subarray(0, 6),
          (row) => [...table.subarray(row * width, (row + 1) * width)],
        );
        assertEquals([...await backend.readIntegers(out, { rows: 2 })], expected.flat());
      }
    });
  });

  Deno.test(`${name}: add adds rows to rows, and a negative zero changes no bit`, async () => {
    await withBackend(open, async (backend) => {
      for (const width of [1, 33, 256]) {
        const rows = 3;
        const x = normals(generator(width), { length: (rows + 1) * width });
        const before = normals(generator(width + 1), { length: (rows + 1) * width });
        x.fill(-0, 0, width);
        before[0] = -0;
        const out = filled(backend, width, before);
        const input = filled(backend, width, x);
        backend.submit(backend.record((ops) => ops.add({ x: input, out, rows })));
        const expected = before.map((value, i) => i < rows * width ? value + x[i] : value);
        assertSameBits(await backend.read(out), expected, `${width} wide`);
        assertSameBits(await backend.read(input), x, `what is added, ${width} wide`);
      }
    });
  });
}
