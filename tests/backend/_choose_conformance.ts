/** The part of the conformance suite about choosing tokens, for backends that do. */

import { assertEquals, assertThrows } from "@std/assert";
import type { Backend } from "../../src/backend/backend.ts";
import { UnsupportedOpError } from "../../src/errors.ts";
import { type Conformance, filled, withBackend } from "./_harness.ts";
import { generator, normals } from "./_random.ts";

const STRIDE = 4;

export function chooseTests({ name, open }: Conformance): void {
  Deno.test(`${name}: the largest logit is chosen, of equals the first, and none where one is no number`, async () => {
    await withBackend(open, async (backend) => {
      if (!backend.chooses) return refuses(backend);
      for (const width of [1, 5, 4096, 4097, 50000]) {
        const rows = 3;
        const logits = normals(generator(width), { length: rows * width });
        // Equals at both ends of the second row; a defect at the end of the third.
        logits[width] = logits[2 * width - 1] = 9;
        logits[3 * width - 1] = width % 2 === 0 ? NaN : Infinity;
        const ids = filled(backend, 1, new Int32Array(STRIDE).fill(77));
        const history = filled(backend, 1, new Int32Array(2 * STRIDE).fill(77));
        const turn = filled(backend, 1, Int32Array.of(1));
        const input = filled(backend, width, logits);
        const params = { logits: input, ids, history, turn, stride: STRIDE, rows };
        backend.submit(backend.record((ops) => ops.choose(params)));
        const first = logits.subarray(0, width);
        const best = first.indexOf(first.reduce((most, logit) => Math.max(most, logit)));
        assertEquals([...await backend.readIntegers(ids)], [best, 0, 0, 77], `${width} wide`);
        assertEquals(
          [...await backend.readIntegers(history)],
          [77, 77, 77, 77, best, 0, -1, 77],
          `${width} wide`,
        );
      }
    });
  });
}

/** Backends that leave it to the host say so. */
function refuses(backend: Backend): void {
  const buffer = (kind: "f32" | "i32") => backend.createBuffer({ kind, rows: 1, width: 1 });
  const [logits, ids, history, turn] = [buffer("f32"), buffer("i32"), buffer("i32"), buffer("i32")];
  assertThrows(
    () => backend.record((ops) => ops.choose({ logits, ids, history, turn, stride: 1, rows: 1 })),
    UnsupportedOpError,
    "cannot record choose",
  );
}
