/** Encodings by Hugging Face tokenizers and by llama.cpp. */

import { assert, assertEquals } from "@std/assert";
import { downloadedModel } from "../support/fixtures.ts";
import { type Tokenizer, tokenizerFromHuggingFace } from "../../src/tokenizer/mod.ts";
import {
  DATA,
  goldenCases,
  openHuggingFace,
  openVocabulary,
  SHARED,
  testWith,
  TOKENIZERS,
} from "./support.ts";

function checkHuggingFace(tokenizer: Tokenizer, golden: string): void {
  const { bos_token_id, vocab_size_with_added, cases } = JSON.parse(
    Deno.readTextFileSync(golden),
  );
  assertEquals(tokenizer.vocabSize, vocab_size_with_added);
  assertEquals(tokenizer.bosToken, bos_token_id);
  assertEquals(cases.length, 93);
  const prefix = bos_token_id === null ? [] : [bos_token_id];
  for (const { name, text, ids, decoded, decoded_skip_special } of cases) {
    assertEquals(tokenizer.encode(text, { addSpecial: false }), ids, name);
    assertEquals(tokenizer.encode(text), [...prefix, ...ids], name);
    assertEquals(tokenizer.decode(ids), decoded, name);
    assertEquals(tokenizer.decode(ids, { skipSpecial: true }), decoded_skip_special, name);
  }
}

function checkLlamaCpp(tokenizer: Tokenizer, golden: string): void {
  for (const goldenCase of goldenCases(golden)) {
    const { name, text, ids_add_special_parse_special, ids_plain } = goldenCase;
    assertEquals(tokenizer.encode(text), ids_add_special_parse_special, name);
    const plain = tokenizer.encode(text, { addSpecial: false, parseSpecial: false });
    assertEquals(plain, ids_plain, name);
  }
}

/** llama.cpp's own test of a vocabulary: texts, and a line of ids for each. */
function checkOwnTest(tokenizer: Tokenizer, vocabulary: string): void {
  const texts = Deno.readTextFileSync(`${vocabulary}.inp`).split("\n__ggml_vocab_test__\n");
  const lines = Deno.readTextFileSync(`${vocabulary}.out`).trimEnd().split("\n");
  // The texts end with a separator, so that there is an empty one behind it.
  assert(lines.length >= 45 && Math.abs(texts.length - lines.length) <= 1);
  lines.forEach((line, i) => {
    const ids = tokenizer.encode(texts[i], { addSpecial: false, parseSpecial: false });
    assertEquals(ids.join(" "), line.trim(), JSON.stringify(texts[i]));
  });
}

for (const name of ["tiny_ds", "tiny_qw", "tiny_ll"]) {
  Deno.test(`${name} encodes and decodes every golden text as Hugging Face tokenizers does`, () => {
    checkHuggingFace(openHuggingFace(`${DATA}${name}`), `${DATA}${name}/golden.json`);
  });
}

const structures = JSON.parse(Deno.readTextFileSync(`${DATA}structures.json`));
const tinyTokenizer = JSON.parse(Deno.readTextFileSync(`${DATA}tiny_ll/tokenizer.json`));

interface Structure {
  readonly pre_tokenizer: unknown;
  readonly normalizer: unknown;
  readonly added_tokens: unknown;
  readonly ids: number[][];
  readonly ids_plain: number[][] | null;
}

for (const [name, structure] of Object.entries<Structure>(structures.sets)) {
  Deno.test(`a tokenizer.json with the ${name} structure encodes as Hugging Face tokenizers does`, () => {
    const { pre_tokenizer, normalizer, added_tokens } = structure;
    const document = { ...tinyTokenizer, pre_tokenizer, normalizer };
    if (added_tokens !== null) document.added_tokens = added_tokens;
    const tokenizer = tokenizerFromHuggingFace({ tokenizer: JSON.stringify(document) }, { name });
    structures.texts.forEach((text: string, i: number) => {
      const label = JSON.stringify(text);
      assertEquals(tokenizer.encode(text, { addSpecial: false }), structure.ids[i], label);
      if (structure.ids_plain === null) return;
      const plain = tokenizer.encode(text, { addSpecial: false, parseSpecial: false });
      assertEquals(plain, structure.ids_plain[i], label);
    });
  });
}

for (const name of ["deepseek_v3", "qwen3"]) {
  const folder = TOKENIZERS && `${TOKENIZERS}/${name}`;
  testWith(
    SHARED && folder && `${folder}/tokenizer.json`,
    {
      name: `${name} encodes and decodes every golden text as Hugging Face tokenizers does`,
      missing: `no ${name} in SLUICE_TOKENIZERS`,
    },
    () => checkHuggingFace(openHuggingFace(folder!), `${SHARED}/fixtures/tokenizers/${name}.json`),
  );
}

Deno.test("deepseek-coder's GGUF vocabulary encodes every golden text as llama.cpp does", async () => {
  const tokenizer = await openVocabulary(`${DATA}ggml-vocab-deepseek-coder.gguf`);
  checkLlamaCpp(tokenizer, `${DATA}llama_cpp_deepseek-coder.json`);
  checkOwnTest(tokenizer, `${DATA}ggml-vocab-deepseek-coder.gguf`);
});

for (const name of ["deepseek-llm", "qwen2", "llama-bpe"]) {
  const vocabulary = TOKENIZERS && `${TOKENIZERS}/ggml-vocab-${name}.gguf`;
  testWith(
    SHARED && vocabulary,
    {
      name: `${name}'s GGUF vocabulary encodes every golden text as llama.cpp does`,
      missing: `no ggml-vocab-${name}.gguf in SLUICE_TOKENIZERS`,
    },
    async () => {
      const tokenizer = await openVocabulary(vocabulary!);
      checkLlamaCpp(tokenizer, `${SHARED}/fixtures/tokenizers/llama_cpp_${name}.json`);
      checkOwnTest(tokenizer, vocabulary!.replace(TOKENIZERS!, `${SHARED}/fixtures/tokenizers`));
    },
  );
}

for (const [name, fixture] of [["tiny_ds", "deepseek_v3"], ["tiny_ll", "llama3_r1_distill"]]) {
  const file = `${SHARED}/fixtures/gguf/${fixture}/${fixture}.q8_0.gguf`;
  testWith(file, {
    name: `the GGUF file of ${fixture} encodes as its tokenizer.json`,
    missing: "no fixtures in SLUICE_SHARED",
  }, async () => {
    const tokenizer = await openVocabulary(file);
    for (const { name: label, text, ids } of goldenCases(`${DATA}${name}/golden.json`)) {
      assertEquals(tokenizer.encode(text), [tokenizer.bosToken, ...ids], label);
    }
  });
}

const smollm2 = downloadedModel("SmolLM2-135M-Instruct.Q4_1.gguf");
testWith(
  SHARED && smollm2,
  { name: "SmolLM2's prompts get the recorded ids", missing: "no SmolLM2 in SLUICE_MODELS" },
  async () => {
    const tokenizer = await openVocabulary(smollm2!);
    const { cases } = JSON.parse(Deno.readTextFileSync(`${SHARED}/models/smollm2_golden.json`));
    assert(cases.length > 0);
    for (const { rendered, ids } of cases) assertEquals(tokenizer.encode(rendered), ids);
    assertEquals(tokenizer.eosTokens, [2, 0]);
  },
);
