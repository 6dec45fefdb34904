import { assertEquals, assertThrows } from "@std/assert";
import { PAGE_TOKENS } from "../../src/backend/backend.ts";
import { OptionError } from "../../src/errors.ts";
import { chooseSizes } from "../../src/engine/sizing.ts";

// SmolLM2-135M: 46,080 bytes of keys and values per token, 364 pages to the gibibyte.
const SMOL = { layers: 30, cacheWidth: 3 * 64 * 2, vocabSize: 49152, contextLength: 8192 };
const COMMON = { slots: 4, chunkTokens: 128 };

Deno.test("the context is the model's own where one such sequence fits the budget", () => {
  const sizes = chooseSizes({ config: SMOL, ...COMMON });
  assertEquals(sizes.contextLength, 8192);
  assertEquals(sizes.pages, 364);
  assertEquals(sizes.maxRows, 132);
  assertEquals(sizes.logitRows, 42);
});

Deno.test("a long context is bounded by the budget", () => {
  const sizes = chooseSizes({ config: { ...SMOL, contextLength: 131072 }, ...COMMON });
  assertEquals([sizes.contextLength, sizes.pages], [364 * PAGE_TOKENS, 364]);
});

Deno.test("an asked-for context gets pages for every slot within the budget", () => {
  const sizes = chooseSizes({ config: SMOL, ...COMMON, contextLength: 1000 });
  assertEquals([sizes.contextLength, sizes.pages], [1000, 64]);
});

Deno.test("an asked-for context beyond the budget gets pages for one sequence", () => {
  const config = { ...SMOL, contextLength: 131072 };
  const sizes = chooseSizes({ config, ...COMMON, contextLength: 100_000 });
  assertEquals([sizes.contextLength, sizes.pages], [100_000, 1563]);
});

Deno.test("every slot has a row of logits, however large the vocabulary", () => {
  const config = { ...SMOL, vocabSize: 2 ** 24 };
  assertEquals(chooseSizes({ config, ...COMMON }).logitRows, 4);
});

const WRONG: [string, Partial<{ slots: number; chunkTokens: number; contextLength: number }>][] = [
  ["slots is 0, must be", { slots: 0 }],
  ["slots is 1.5, must be", { slots: 1.5 }],
  ["chunkTokens is 0, must be", { chunkTokens: 0 }],
  ["contextLength is -1, must be", { contextLength: -1 }],
  ["contextLength is 8193, must be at most 8192 (the model's own)", { contextLength: 8193 }],
];

for (const [message, wrong] of WRONG) {
  Deno.test(`sizes are refused: ${message}`, () => {
    assertThrows(() => chooseSizes({ config: SMOL, ...COMMON, ...wrong }), OptionError, message);
  });
}
