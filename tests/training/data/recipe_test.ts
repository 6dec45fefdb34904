import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { OptionError } from "../../../src/errors.ts";
import { readRecipe, type Recipe } from "../../../src/training/data/recipe/recipe.ts";

const SUMS = { name: "sums", generate: "addition", levels: [1, 3], count: 10 };
const GSM = { name: "gsm", read: "gsm8k", files: ["a.jsonl"] };

function read(json: unknown): Recipe {
  return readRecipe(typeof json === "string" ? json : JSON.stringify(json), {
    file: "x.json",
    resolve: (path) => `/data/${path}`,
  });
}

function recipe(more: Record<string, unknown> = {}): Record<string, unknown> {
  return { name: "test", seed: 1, sources: [SUMS, GSM], ...more };
}

Deno.test("a recipe says little and means the defaults", () => {
  const { sources, split, tokenizer, pack, evaluations, duplicates } = read(recipe());
  assertEquals(sources.map(({ kind }) => kind), ["generated", "files"]);
  assert(sources[1].kind === "files");
  assertEquals(sources[1].paths, ["/data/a.jsonl"]);
  assertEquals(split, { heldout: 0.05, limit: 1000 });
  assertEquals([tokenizer, pack, evaluations], [null, null, []]);
  assertEquals(duplicates.near, 0.8);
});

Deno.test("what is wrong is named, with what would be right", () => {
  const cases: [unknown, ...string[]][] = [
    ["{", "it is not JSON"],
    [[], "the recipe is [], must be an object"],
    [recipe({ seed: "1" }), 'seed is "1"', "a whole number"],
    [recipe({ seed: -1 }), "seed is -1"],
    [recipe({ sorces: [] }), "sorces is not known", "perhaps sources is meant"],
    [recipe({ sources: [] }), "sources is []", "at least one"],
    [recipe({ sources: [SUMS, SUMS] }), 'two sources are named "sums"'],
    [recipe({ sources: [{ ...SUMS, levls: [1, 2] }] }), "sources[0].levls is not known", "levels"],
    [
      recipe({ sources: [{ ...SUMS, levels: [1, 9] }] }),
      "sources[0].levels is [1,9]",
      "from 1 to 6",
    ],
    [recipe({ sources: [{ ...SUMS, levels: [3, 2] }] }), "sources[0].levels is [3,2]"],
    [recipe({ sources: [{ ...SUMS, levels: [1.5, 2] }] }), "sources[0].levels is [1.5,2]"],
    [recipe({ sources: [{ ...SUMS, generate: "sums" }] }), 'generate is "sums"', "one of addition"],
    [recipe({ sources: [{ name: "a", generate: "addition" }] }), "sources[0].count is missing"],
    [recipe({ sources: [{ ...SUMS, notation: "roman" }] }), "columns, place, reversed, plain"],
    [recipe({ sources: [{ ...SUMS, name: "a/b" }] }), 'name is "a/b"', "letters"],
    [recipe({ sources: [{ ...SUMS, files: ["a"] }] }), "sources[0].files is not known"],
    [recipe({ sources: [{ ...GSM, files: [] }] }), "sources[0].files is []"],
    [recipe({ sources: [{ ...GSM, files: [1] }] }), "sources[0].files[0] is 1", "a text"],
    [recipe({ sources: [{ ...GSM, read: "csv" }] }), 'read is "csv"', "one of gsm8k"],
    [recipe({ sources: [7] }), "sources[0] is 7", "an object"],
    [
      recipe({ filters: { length: { min: 1 } } }),
      "filters.length.min is not known",
      "minCharacters",
    ],
    [recipe({ filters: { language: {} } }), "filters.language.allow is missing"],
    [recipe({ filters: { symbols: { maxSymbols: 2 } } }), "filters.symbols.maxSymbols is 2"],
    [recipe({ split: { heldout: 0.9 } }), "split.heldout is 0.9", "from 0 to 0.5"],
    [recipe({ duplicates: { near: "yes" } }), 'duplicates.near is "yes"'],
    [recipe({ pack: {} }), "tokenizer is missing", "pack"],
    [recipe({ tokenizer: { vocabulary: 10 } }), "tokenizer.vocabulary is 10", "from 264"],
    [recipe({ tokenizer: { from: "x", digits: "single" } }), "tokenizer.digits is not known"],
    [recipe({ evaluations: [{ read: "gsm8k" }] }), "evaluations[0].files is missing"],
  ];
  for (const [json, ...parts] of cases) {
    const { message } = assertThrows(() => read(json), OptionError);
    assert(message.startsWith('cannot read the recipe "x.json": '), message);
    for (const part of parts) assertStringIncludes(message, part);
    assert(!message.includes("\n"), message);
  }
});

Deno.test("a source's filters stand over the recipe's, one by one", () => {
  const { sources } = read(recipe({
    filters: { length: { maxWords: 7 }, symbols: {}, duplicates: true },
    sources: [
      SUMS,
      GSM,
      { ...GSM, name: "own", filters: { symbols: false, length: { minWords: 2 } } },
    ],
  }));
  const [generated, plain, own] = sources.map(({ filters }) => filters);
  assertEquals([generated.length, generated.duplicates, generated.contamination], [
    null,
    false,
    true,
  ]);
  assertEquals([plain.length?.maxWords, plain.symbols !== null, plain.duplicates], [7, true, true]);
  assertEquals([own.length?.minWords, own.symbols, own.duplicates], [2, null, true]);
  assertEquals(own.length?.maxWords, 20_000, "a filter of its own has its own defaults");
});

Deno.test("the recipes of the repository are right", async () => {
  const folder = new URL("../../../recipes/data/", import.meta.url);
  let count = 0;
  for await (const { name } of Deno.readDir(folder)) {
    const text = await Deno.readTextFile(new URL(name, folder));
    const { name: own } = readRecipe(text, { file: name, resolve: (path) => path });
    assertEquals(`${own}.json`, name);
    count++;
  }
  assert(count > 0);
});
