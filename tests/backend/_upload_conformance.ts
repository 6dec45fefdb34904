/** The part of the conformance suite about weights that are refused, integers, and what is held of experts. */

import { assertEquals, assertRejects } from "@std/assert";
import type { TensorData } from "../../src/backend/backend.ts";
import { FormatError } from "../../src/errors.ts";
import { rowBytes, type TensorType } from "../../src/quant/types.ts";
import { type Conformance, filled, withBackend } from "./_harness.ts";
import { generator, randomWeight } from "./_random.ts";

const NAN_F16 = Uint8Array.of(0x00, 0x7e);
const INFINITE_F16 = Uint8Array.of(0x00, 0x7c);

/** Bytes that make one value or one block of a type NaN or infinite, from the block's `offset` on. */
const WRONG: readonly { type: TensorType; offset: number; bytes: Uint8Array; what: string }[] = [
  { type: "F32", offset: 0, bytes: Uint8Array.of(0, 0, 0xc0, 0x7f), what: "NaN" },
  { type: "F32", offset: 0, bytes: Uint8Array.of(0, 0, 0x80, 0xff), what: "-Infinity" },
  { type: "F16", offset: 0, bytes: NAN_F16, what: "NaN" },
  { type: "F16", offset: 0, bytes: INFINITE_F16, what: "Infinity" },
  { type: "BF16", offset: 0, bytes: Uint8Array.of(0xc0, 0x7f), what: "NaN" },
  { type: "BF16", offset: 0, bytes: Uint8Array.of(0x80, 0x7f), what: "Infinity" },
  { type: "Q8_0", offset: 0, bytes: NAN_F16, what: "a scale of NaN" },
  { type: "Q8_0", offset: 0, bytes: INFINITE_F16, what: "an infinite scale" },
  { type: "Q4_0", offset: 0, bytes: INFINITE_F16, what: "an infinite scale" },
  { type: "Q5_1", offset: 2, bytes: NAN_F16, what: "a minimum of NaN" },
  { type: "Q4_K", offset: 0, bytes: NAN_F16, what: "a d of NaN" },
  { type: "Q4_K", offset: 2, bytes: INFINITE_F16, what: "an infinite dmin" },
  { type: "Q6_K", offset: 208, bytes: NAN_F16, what: "a d of NaN" },
  { type: "IQ4_NL", offset: 0, bytes: NAN_F16, what: "a d of NaN" },
  { type: "F8_E4M3", offset: 4, bytes: Uint8Array.of(0x7f), what: "NaN" },
  {
    type: "F8_E4M3",
    offset: 0,
    bytes: Uint8Array.of(0, 0, 0x80, 0x7f),
    what: "an infinite factor",
  },
];

/** A weight whose block at the start of row `row` holds `bytes`. */
function damaged(
  tensor: TensorData,
  { row, offset, bytes }: { row: number; offset: number; bytes: Uint8Array },
): TensorData {
  const at = row * rowBytes(tensor.type, tensor.cols) + offset;
  return {
    ...tensor,
    async read(from, into) {
      await tensor.read(from, into);
      bytes.forEach((byte, i) => {
        if (at + i >= from && at + i < from + into.length) into[at + i - from] = byte;
      });
    },
  };
}

export function uploadTests({ name, open }: Conformance): void {
  Deno.test(`${name}: a weight that is not a number or infinite is refused by name`, async (t) => {
    await withBackend(open, async (backend) => {
      for (const { type, offset, bytes, what } of WRONG) {
        await t.step(`${type} with ${what}`, async () => {
          // Rows beyond a group of eight, so that the last one is handled as a remainder.
          const shape = { name: "blk.3.weight", type, rows: 19, cols: 256 };
          const good = randomWeight(generator(1), shape).data;
          for (const row of [0, 18]) {
            const bad = damaged(good, { row, offset, bytes });
            for (const options of [{}, { exact: true }]) {
              await assertRejects(() => backend.upload(bad, options), FormatError, "blk.3.weight");
            }
          }
          const vector = randomWeight(generator(1), { ...shape, name: "norm", rows: 1 }).data;
          const bad = damaged(vector, { row: 0, offset, bytes });
          await assertRejects(() => backend.upload(bad), FormatError, "norm");
          await backend.upload(good);
        });
      }
    });
  });

  Deno.test(`${name}: one expert that is not a number is refused by name`, async () => {
    await withBackend(open, async (backend) => {
      for (const part of ["gate", "up", "down"] as const) {
        const matrices = (what: string) =>
          Array.from({ length: 4 }, (_, e) => {
            const expertName = `experts.${e}.${what}`;
            const random = generator(e);
            return randomWeight(random, { name: expertName, type: "Q8_0", rows: 32, cols: 32 })
              .data;
          });
        const experts = { gate: matrices("gate"), up: matrices("up"), down: matrices("down") };
        experts[part][2] = damaged(experts[part][2], { row: 31, offset: 0, bytes: NAN_F16 });
        await assertRejects(
          () => backend.uploadExperts({ layer: 1, ...experts }),
          FormatError,
          `experts.2.${part}`,
        );
      }
    });
  });

  Deno.test(`${name}: experts of unequal shape, type or number are refused`, async () => {
    await withBackend(open, async (backend) => {
      const matrix = (rows: number, cols: number, type: TensorType = "F32") =>
        randomWeight(generator(1), { name: `${rows} x ${cols}`, type, rows, cols }).data;
      const gate = [matrix(8, 16), matrix(8, 16)];
      const down = [matrix(16, 8), matrix(16, 8)];
      const refused = { gate, up: gate, down, layer: 0 };
      for (
        const wrong of [
          { ...refused, gate: [], up: [], down: [] },
          { ...refused, up: gate.slice(1) },
          { ...refused, down: [...down, matrix(16, 8)] },
          { ...refused, up: [matrix(8, 16), matrix(9, 16)] },
          { ...refused, down: gate },
          { ...refused, down: [matrix(16, 8), matrix(16, 8, "F16")] },
          { ...refused, biases: { gate, up: gate, down } },
        ]
      ) {
        await assertRejects(() => backend.uploadExperts(wrong), FormatError, "layer 0");
      }
    });
  });

  Deno.test(`${name}: resident experts are counted by layer and cause no traffic`, async () => {
    await withBackend(open, async (backend) => {
      assertEquals(backend.expertTraffic(), []);
      const layers = [{ layer: 5, count: 3 }, { layer: 2, count: 7 }];
      for (const { layer, count } of layers) {
        const matrices = (rows: number, cols: number) =>
          Array.from(
            { length: count },
            () => randomWeight(generator(1), { name: "expert", type: "F32", rows, cols }).data,
          );
        const experts = await backend.uploadExperts({
          layer,
          gate: matrices(12, 20),
          up: matrices(12, 20),
          down: matrices(20, 12),
        });
        const { hidden, intermediate } = experts;
        assertEquals(
          { layer: experts.layer, count: experts.count, hidden, intermediate },
          { layer, count, hidden: 20, intermediate: 12 },
        );
      }
      const predictions = { made: 0, right: 0 };
      const none = { hits: 0, prefetched: 0, misses: 0, predictions, bytesRead: 0 };
      assertEquals(
        backend.expertTraffic(),
        layers.map(({ layer, count }) => ({ layer, resident: count, ...none })),
      );
    });
  });

  Deno.test(`${name}: integers are read as they were written`, async () => {
    await withBackend(open, async (backend) => {
      // Numbers that float32 does not have, and ones that would be NaN as its bits.
      const values = Int32Array.of(0, -1, 2 ** 24 + 1, 2 ** 31 - 1, -(2 ** 31), 0x7fc00001, 7, 8);
      const buffer = filled(backend, 2, values);
      assertEquals(await backend.readIntegers(buffer), values);
      assertEquals(await backend.readIntegers(buffer, { row: 1, rows: 2 }), values.slice(2, 6));
      assertEquals(await backend.readIntegers(buffer, { row: 3 }), values.slice(6));
      backend.write(buffer, Int32Array.of(5, 6), 2);
      assertEquals(await backend.readIntegers(buffer, { row: 2, rows: 1 }), Int32Array.of(5, 6));
    });
  });
}
