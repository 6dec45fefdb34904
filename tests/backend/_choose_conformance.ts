/** The part of the conformance suite about choosing tokens, for backends that do. */

import { assertEquals, assertThrows } from "@std/assert";
import type { Backend } from "../../src/backend/backend.ts";
import { UnsupportedOpError } from "../../src/errors.ts";
import { type Conformance, filled, withBackend } from "./_harness.ts";
import { generator, normals } from "./_random.ts";
import { samplingTests } from "./_sampling_conformance.ts";

const STRIDE = 4;

export function chooseTests(suite: Conformance): void {
  const { name, open } = suite;
  Deno.test(`${name}: the largest logit is chosen, of equals the first, and none where one is no number`, async () => {
    await withBackend(open, async (backend) => {
      if (!backend.chooses) return refuses(backend);
      for (const width of [1, 5, 4096, 4097, 50000]) {
        const rows = 3;
        const logits = normals(generator(width), { length: rows * width });
        // Equals at both ends of the second row; a defect at the end of the third.
        logits[width] = logits[2 * width - 1] = 9;
        logits[3 * width - 1] = width % 2 === 0 ? NaN : Infinity;
        const input = filled(backend, width, logits);
        const sequences = filled(backend, 1, Int32Array.of(4, 0, 2));
        const unset = (rows: number) => filled(backend, 1, new Int32Array(rows).fill(77));
        const [ids, history, latest] = [unset(STRIDE), unset(2 * STRIDE), unset(5)];
        const turn = filled(backend, 1, Int32Array.of(1));
        const params = {
          logits: input,
          sequences,
          ids,
          latest,
          history,
          turn,
          stride: STRIDE,
          rows,
        };
        backend.submit(backend.record((ops) => ops.choose(params)));
        const first = logits.subarray(0, width);
        const best = first.indexOf(first.reduce((most, logit) => Math.max(most, logit)));
        const read = async (of: typeof ids) => [...await backend.readIntegers(of)];
        assertEquals(await read(ids), [best, 0, 0, 77], `${width} wide`);
        assertEquals(await read(latest), [0, 77, 0, 77, best], `${width} wide`);
        assertEquals(await read(history), [77, 77, 77, 77, best, 0, -1, 77], `${width} wide`);
      }
    });
  });

  Deno.test(`${name}: the largest of logits that are next to nothing is chosen, and zeros are equal`, async () => {
    await withBackend(open, async (backend) => {
      if (!backend.chooses) return refuses(backend);
      const rows = [[-1e-45, -0, 0, 1e-45, 1e-44], [-1, -0, 0, -1, -1], [
        -3e38,
        -1e-45,
        -1,
        -2,
        -3,
      ]];
      const width = rows[0].length;
      const input = filled(backend, width, Float32Array.from(rows.flat()));
      const sequences = filled(backend, 1, Int32Array.of(0, 1, 2));
      const [ids, latest, history] = [3, 3, 3].map((rows) =>
        filled(backend, 1, new Int32Array(rows))
      );
      const turn = filled(backend, 1, Int32Array.of(0));
      const params = { logits: input, sequences, ids, latest, history, turn, stride: 3, rows: 3 };
      backend.submit(backend.record((ops) => ops.choose(params)));
      assertEquals([...await backend.readIntegers(ids)], [4, 1, 1]);
    });
  });

  samplingTests(suite);
}

/** Backends that leave it to the host say so. */
function refuses(backend: Backend): void {
  const buffer = (kind: "f32" | "i32") => backend.createBuffer({ kind, rows: 1, width: 1 });
  const [logits, integers] = [buffer("f32"), buffer("i32")];
  const [sequences, ids, latest, history, turn] = new Array(5).fill(integers);
  const params = { logits, sequences, ids, latest, history, turn, stride: 1, rows: 1 };
  assertThrows(
    () => backend.record((ops) => ops.choose(params)),
    UnsupportedOpError,
    "cannot record choose",
  );
}
