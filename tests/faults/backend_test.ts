/** Memory that is not to be had while a backend is in use: what was recorded before and after is right. */

import { assert, assertRejects, assertThrows } from "@std/assert";
import type { Backend, Buffer, Weight } from "../../src/backend/backend.ts";
import { createWasmBackend } from "../../src/backend/wasm/mod.ts";
import { CapacityError } from "../../src/errors.ts";
import { FAULT_KINDS, type Faults, parseFaults } from "../../src/faults.ts";
import { assertSameBits, filled, withBackend } from "../backend/_harness.ts";
import { generator, normals, randomWeight } from "../backend/_random.ts";

const GROW = FAULT_KINDS.indexOf("grow");
/** Times that are never reached; the next growth fails once the count is set before it. */
const AT = 1_000_000;

/** Lets the next growth of a memory fail. */
function failNext(faults: Faults): void {
  faults.counts[GROW] = AT - 1;
}

function hasFailed(faults: Faults): boolean {
  return faults.counts[GROW] >= AT;
}

interface Product {
  readonly weight: Weight;
  readonly x: Buffer;
  readonly out: Buffer;
  readonly rows: number;
}

/** A matrix of some width and its input; `attempt` runs what may be refused, until it is not. */
async function product(
  backend: Backend,
  { cols, rows, attempt }: {
    cols: number;
    rows: number;
    attempt: <T>(action: () => Promise<T>) => Promise<T>;
  },
): Promise<Product> {
  const random = generator(cols);
  const { data } = randomWeight(random, { name: "matrix", type: "Q4_K", rows: 40, cols });
  const weight = await attempt(() => backend.upload(data));
  const x = filled(backend, cols, normals(random, { length: rows * cols }));
  return { weight, x, out: backend.createBuffer({ kind: "f32", rows, width: 40 }), rows };
}

const recordOf = (backend: Backend, { weight, x, out, rows }: Product) =>
  backend.record((ops) => ops.linear({ x, outputs: [{ weight, out }], rows }));

const plainly = <T>(action: () => Promise<T>) => action();

/** A product on a backend that has met no fault. */
async function wanted(cols: number, rows: number): Promise<Float32Array> {
  let values = new Float32Array();
  await withBackend(
    () => createWasmBackend({ threads: 1, activations: "f32" }),
    async (backend) => {
      const whole = await product(backend, { cols, rows, attempt: plainly });
      backend.submit(recordOf(backend, whole));
      values = (await backend.read(whole.out, { rows })).slice();
    },
  );
  return values;
}

for (const threads of [1, 2]) {
  Deno.test(`a matrix that scratch memory was refused for is right when it is uploaded again, ${threads} threads`, async () => {
    const faults = parseFaults(`grow:${AT}`);
    const open = () => createWasmBackend({ threads, activations: "f32", faults });
    await withBackend(open, async (backend) => {
      // Wide enough that scratch has no room in what is held.
      const cols = 32768;
      const whole = await product(backend, {
        ...{ cols, rows: 3 },
        attempt: async (action) => {
          failNext(faults);
          await assertRejects(action, CapacityError, "cannot allocate scratch");
          assert(hasFailed(faults));
          return await action();
        },
      });
      backend.submit(recordOf(backend, whole));
      assertSameBits(await backend.read(whole.out, { rows: 3 }), await wanted(cols, 3), "values");
    });
  });

  Deno.test(`a plan that was refused its memory leaves the others right, and is right when it is recorded again, ${threads} threads`, async () => {
    const faults = parseFaults(`grow:${AT}`);
    const open = () => createWasmBackend({ threads, activations: "f32", faults });
    await withBackend(open, async (backend) => {
      const small = await product(backend, { cols: 512, rows: 2, attempt: plainly });
      const before = recordOf(backend, small);
      const large = await product(backend, { cols: 8192, rows: 64, attempt: plainly });
      failNext(faults);
      assertThrows(() => recordOf(backend, large), CapacityError, "cannot allocate inputs");
      assert(hasFailed(faults));
      const right = [await wanted(512, 2), await wanted(8192, 64)];
      for (const plan of [before, recordOf(backend, large), before]) {
        backend.submit(plan);
        const [{ out, rows }, values] = plan === before ? [small, right[0]] : [large, right[1]];
        assertSameBits(await backend.read(out, { rows }), values, `${rows} rows`);
      }
    });
  });
}
