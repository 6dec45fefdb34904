import { assertEquals, assertThrows } from "@std/assert";
import { PAGE_TOKENS } from "../../src/backend/backend.ts";
import { OptionError } from "../../src/errors.ts";
import { cachePageBytes, chooseSizes } from "../../src/engine/sizing.ts";

// SmolLM2-135M: 46,080 bytes of keys and values per token as float32, 364 pages to the gibibyte.
const SMOL = {
  layers: 30,
  cacheShape: { kvHeads: 3, keyDim: 64, valueDim: 64 },
  vocabSize: 49152,
  contextLength: 8192,
};
const COMMON = { slots: 4, chunkTokens: 128, kvType: "f32" } as const;

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

Deno.test("an asked-for context gets pages for every slot within the budget, and as many for kept prefixes", () => {
  const sizes = chooseSizes({ config: SMOL, ...COMMON, contextLength: 1000 });
  assertEquals([sizes.contextLength, sizes.pages], [1000, 128]);
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

Deno.test("the cache's pages fill its budget exactly, whatever the type and the attention", () => {
  const latent = { ...SMOL, cacheShape: { latentDim: 512, ropeDim: 64 } };
  const bytes = [
    [SMOL, "f32", 30 * 384 * 4],
    [SMOL, "f16", 30 * 384 * 2],
    // A scale of 4 bytes for each 32 numbers.
    [SMOL, "q8", 30 * 384 * 36 / 32],
    [latent, "f32", 30 * 576 * 4],
    [latent, "f16", 30 * 576 * 2],
    [latent, "q8", 30 * 576 * 36 / 32],
  ] as const;
  for (const [config, kvType, tokenBytes] of bytes) {
    assertEquals(cachePageBytes(config, kvType), PAGE_TOKENS * tokenBytes);
    const kvBytes = 10 * PAGE_TOKENS * tokenBytes;
    const pagesOf = (kvBytes: number) =>
      chooseSizes({ config, ...COMMON, slots: 16, kvType, kvBytes }).pages;
    assertEquals([pagesOf(kvBytes), pagesOf(kvBytes - 1)], [10, 9]);
  }
});

Deno.test("guesses have rows of logits of their own", () => {
  const config = { ...SMOL, vocabSize: 2 ** 24 };
  assertEquals(chooseSizes({ config, ...COMMON, speculation: "ngram" }).logitRows, 12);
});

Deno.test("a budget of the cache that does not hold the context is refused with the bytes it takes", () => {
  const options = { config: SMOL, ...COMMON, contextLength: 128, kvBytes: 1000 };
  assertThrows(
    () => chooseSizes(options),
    OptionError,
    `kvBytes is 1000, must be at least ${128 * 46_080} (128 tokens)`,
  );
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
