/** A small trained mixture with its experts paged for hundreds of steps, while readers fetch ahead. */

import { assertEquals } from "@std/assert";
import { createWasmBackend, type WasmBackendOptions } from "../../src/backend/wasm/mod.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { argmax, Evaluator } from "../../src/model/evaluate.ts";
import { loadModel } from "../../src/model/registry.ts";
import { TINY_V3 } from "../support/fixtures.ts";

const MODEL = TINY_V3;
const STEPS = 250;
const CACHE_BYTES = 7 * 2 ** 20;

/** Tokens of a greedy answer, and for each step the bits of its logits folded into a word. */
async function answer(
  options: Partial<WasmBackendOptions>,
): Promise<{ tokens: number[]; bits: number[] }> {
  const source = await openCheckpoint(MODEL);
  const backend = await createWasmBackend({ threads: 1, activations: "q8", ...options });
  try {
    const model = await loadModel({ source, backend, maxRows: 16, maxLogitRows: 1 });
    const evaluator = new Evaluator({ model, backend, maxRows: 16, sequences: 1, tokens: 320 });
    let logits = await evaluator.prefill([0, 3, 318, 303, 227, 515, 282, 227, 510], { chunk: 16 });
    const tokens: number[] = [];
    const bits: number[] = [];
    for (let i = 0; i < STEPS; i++) {
      const words = new Uint32Array(logits.buffer, logits.byteOffset, logits.length);
      bits.push(words.reduce((sum, word) => Math.imul(sum, 31) + word | 0, 0));
      // Not the likeliest token but one of many, so that the routing wanders.
      tokens.push((argmax(logits) + 97 * i) % model.config.vocabSize);
      [logits] = await evaluator.step([{ sequence: 0, ids: [tokens[i]] }], { logits: "last" });
    }
    return { tokens, bits };
  } finally {
    backend.close();
    source.close();
  }
}

Deno.test("hundreds of steps have the bits of resident experts, however many readers fetch ahead", async () => {
  const resident = await answer({});
  for (const readers of [1, 3]) {
    for (const threads of [1, 2]) {
      const paging = { cacheBytes: CACHE_BYTES, lookAhead: true, readers };
      assertEquals(
        await answer({ threads, paging }),
        resident,
        `${readers} readers, ${threads} threads`,
      );
    }
  }
});
