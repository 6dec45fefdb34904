/** Every way in which a tokenizer's documents can lie is refused with a FormatError that names it. */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FormatError } from "../../src/errors.ts";
import type { MetadataValue } from "../../src/formats/tensor_source.ts";
import {
  loadTokenizer,
  tokenizerFromGguf,
  tokenizerFromHuggingFace,
} from "../../src/tokenizer/mod.ts";
import { DATA } from "./support.ts";

// deno-lint-ignore no-explicit-any
type Document = any;

const tokenizerText = Deno.readTextFileSync(`${DATA}tiny_qw/tokenizer.json`);
const configText = Deno.readTextFileSync(`${DATA}tiny_qw/tokenizer_config.json`);

function refused(options: {
  edit?: (json: Document) => void;
  editConfig?: (json: Document) => void;
  generation?: unknown;
}): string {
  const tokenizer = JSON.parse(tokenizerText);
  const config = JSON.parse(configText);
  options.edit?.(tokenizer);
  options.editConfig?.(config);
  const error = assertThrows(() =>
    tokenizerFromHuggingFace({
      tokenizer: JSON.stringify(tokenizer),
      tokenizerConfig: JSON.stringify(config),
      generationConfig: options.generation === undefined
        ? null
        : JSON.stringify(options.generation),
    }, { name: "damaged" }), FormatError);
  assert(error.message.startsWith('cannot read the tokenizer of "damaged": '), error.message);
  return error.message;
}

const lies: [string, string, Parameters<typeof refused>[0]][] = [
  ["no model", "model is missing", { edit: (j) => delete j.model }],
  ["another kind of model", "model.type", { edit: (j) => j.model.type = "Unigram" }],
  ["byte fallback", "model.byte_fallback", { edit: (j) => j.model.byte_fallback = true }],
  ["a subword prefix", "continuing_subword", {
    edit: (j) => j.model.continuing_subword_prefix = "##",
  }],
  ["a vocabulary that is a list", "model.vocab", { edit: (j) => j.model.vocab = [] }],
  ["an id that is no integer", 'the id of "!"', { edit: (j) => j.model.vocab["!"] = 0.5 }],
  ["a negative id", 'the id of "!"', { edit: (j) => j.model.vocab["!"] = -1 }],
  ["an id beyond all bounds", 'the id of "!"', { edit: (j) => j.model.vocab["!"] = 2 ** 31 }],
  ["two tokens with one id", "the token with id 1", { edit: (j) => j.model.vocab["!"] = 1 }],
  ["no merges", "model.merges", { edit: (j) => delete j.model.merges }],
  ["a merge that is a number", "merge 3", { edit: (j) => j.model.merges[3] = 5 }],
  ["a merge of one text", "merge 3", { edit: (j) => j.model.merges[3] = ["a"] }],
  ["a merge of unknown tokens", "merge 3", { edit: (j) => j.model.merges[3] = ["zzz", "q"] }],
  ["a merge whose result is no token", "merge 3", { edit: (j) => j.model.merges[3] = ["!", "q"] }],
  ["a merge outside the byte alphabet", "merge 3", {
    edit: (j) => j.model.merges[3] = ["中", "q"],
  }],
  ["a merge given twice", "merge 3", { edit: (j) => j.model.merges[3] = j.model.merges[0] }],
  ["added tokens that are no list", "added_tokens", { edit: (j) => j.added_tokens = {} }],
  ["an added token without a text", "added_tokens[0].content", {
    edit: (j) => delete j.added_tokens[0].content,
  }],
  ["an added token with a strange flag", "added_tokens[0].lstrip", {
    edit: (j) => j.added_tokens[0].lstrip = "yes",
  }],
  ["an added token with a strange id", "added_tokens[0].id", {
    edit: (j) => j.added_tokens[0].id = "7",
  }],
  ["two added tokens with one id", "added_tokens[1].id", {
    edit: (j) => j.added_tokens[1].id = j.added_tokens[0].id,
  }],
  ["two added tokens with one text", "added token", {
    edit: (j) => j.added_tokens[1].content = j.added_tokens[0].content,
  }],
  ["an added token that takes another's id", "the token with id 0", {
    edit: (j) => j.added_tokens[0].id = 0,
  }],
  ["an added token that the vocabulary has elsewhere", 'the id of added token "!"', {
    edit: (j) => j.added_tokens[0].content = "!",
  }],
  ["an endless added token", "the length of added token", {
    edit: (j) => j.added_tokens[5].content = "x".repeat(5000),
  }],
  ["an unknown normaliser", "normalizer", { edit: (j) => j.normalizer = { type: "Lowercase" } }],
  ["an unknown decoder", "decoder", { edit: (j) => j.decoder = { type: "Metaspace" } }],
  ["no decoder", "decoder", { edit: (j) => delete j.decoder }],
  ["an unknown pre-tokeniser", "Metaspace", {
    edit: (j) => j.pre_tokenizer = { type: "Metaspace" },
  }],
  ["an unknown pattern", "(a+)+$", {
    edit: (j) => j.pre_tokenizer.pretokenizers[0].pattern.Regex = "^(a+)+$",
  }],
  ["a pattern that removes", "Removed", {
    edit: (j) => j.pre_tokenizer.pretokenizers[0].behavior = "Removed",
  }],
  ["a prefix space", "add_prefix_space", {
    edit: (j) => j.pre_tokenizer.pretokenizers[1].add_prefix_space = true,
  }],
  ["an unknown post-processor", "post_processor", {
    edit: (j) => j.post_processor = { type: "BertProcessing" },
  }],
  ["a template of unknown tokens", "post_processor.special_tokens", {
    edit: (j) =>
      j.post_processor = {
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: "<s>" } }, { Sequence: { id: "A" } }],
        special_tokens: {},
      },
  }],
  ["an end token that is no token", "eos_token", { editConfig: (j) => j.eos_token = "<end>" }],
  ["a BOS to add that does not exist", "add_bos_token", {
    editConfig: (j) => j.add_bos_token = true,
  }],
  ["a strange add_bos_token", "add_bos_token", { editConfig: (j) => j.add_bos_token = "no" }],
  ["end ids beyond the vocabulary", "generation_config.json", {
    generation: { eos_token_id: [507, 512] },
  }],
];

for (const [lie, named, options] of lies) {
  Deno.test(`a tokenizer.json with ${lie} is refused`, () => {
    const message = refused(options);
    assert(message.includes(named), message);
  });
}

Deno.test("documents that are not JSON are refused", () => {
  for (const tokenizer of ["", "{", "[]", "null", "7"]) {
    assertThrows(() => tokenizerFromHuggingFace({ tokenizer }, { name: "x" }), FormatError);
  }
});

Deno.test("a vocabulary may leave ids out", () => {
  const json = JSON.parse(tokenizerText);
  json.added_tokens[6].id = 600;
  const tokenizer = tokenizerFromHuggingFace({ tokenizer: JSON.stringify(json) }, { name: "x" });
  assertEquals(tokenizer.vocabSize, 601);
  assertEquals(tokenizer.idToPiece(550), "");
  assertEquals(tokenizer.encode("</think>"), [600]);
});

function ggufMetadata(changes: Record<string, MetadataValue | undefined>) {
  const json = JSON.parse(tokenizerText);
  const tokens: string[] = [];
  for (const text in json.model.vocab) tokens[json.model.vocab[text]] = text;
  for (const token of json.added_tokens) tokens[token.id] = token.content;
  const metadata: Record<string, MetadataValue | undefined> = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.token_type": tokens.map((_, id) => id < 505 ? 1 : 3),
    "tokenizer.ggml.merges": json.model.merges.map((pair: string[]) => pair.join(" ")),
    "tokenizer.ggml.eos_token_id": 507,
    ...Object.fromEntries(
      Object.entries(changes).map(([key, value]) => [`tokenizer.ggml.${key}`, value]),
    ),
  };
  return new Map(Object.entries(metadata).filter(([, value]) => value !== undefined)) as Map<
    string,
    MetadataValue
  >;
}

Deno.test("GGUF metadata gives the tokenizer of the tokenizer.json it was made from", () => {
  const tokenizer = tokenizerFromGguf(ggufMetadata({}), { name: "x" });
  const other = tokenizerFromHuggingFace({ tokenizer: tokenizerText }, { name: "x" });
  const text = "<|im_start|>user\nThe expert 专家 loads 12345 tokens, don't it?<|im_end|>";
  assertEquals(tokenizer.encode(text), other.encode(text));
  assertEquals(tokenizer.eosTokens, [507, 505]);
});

const ggufLies: [string, string, Record<string, MetadataValue | undefined>][] = [
  ["no model", "tokenizer.ggml.model", { model: undefined }],
  ["another kind of model", "tokenizer.ggml.model", { model: "llama" }],
  ["no pre-tokeniser", "tokenizer.ggml.pre", { pre: undefined }],
  ["an unknown pre-tokeniser", "tokenizer.ggml.pre", { pre: "my-own" }],
  ["no tokens", "tokenizer.ggml.tokens", { tokens: undefined }],
  ["an empty vocabulary", "tokenizer.ggml.tokens", { tokens: [], token_type: [] }],
  ["tokens that are a string", "tokenizer.ggml.tokens", { tokens: "abc" }],
  ["tokens that are numbers", "tokenizer.ggml.tokens", { tokens: [1, 2], token_type: [1, 1] }],
  ["two tokens with one text", "the text of token 1", { tokens: ["a", "a"], token_type: [1, 1] }],
  ["too few types", "tokenizer.ggml.token_type", { token_type: [1] }],
  ["an unknown type", "the type of token 0", { tokens: ["a"], token_type: [9] }],
  ["no merges", "tokenizer.ggml.merges", { merges: undefined }],
  ["a merge without a space", "merge 0", { merges: ["ab"] }],
  ["a merge of unknown tokens", "merge 0", { merges: ["zzz q"] }],
  ["a merge given twice", "merge 1", { merges: ["h e", "h e"] }],
  ["an end token beyond the vocabulary", "eos_token_id", { eos_token_id: 512 }],
  ["an end token that is a string", "eos_token_id", { eos_token_id: "end" }],
  ["a huge end token", "eos_token_id", { eos_token_id: 2n ** 63n }],
  ["add_bos_token that is a number", "add_bos_token", { add_bos_token: 1 }],
  ["a BOS to add that does not exist", "add_bos_token", { add_bos_token: true }],
];

for (const [lie, named, changes] of ggufLies) {
  Deno.test(`GGUF metadata with ${lie} is refused`, () => {
    const error = assertThrows(
      () => tokenizerFromGguf(ggufMetadata(changes), { name: "damaged" }),
      FormatError,
    );
    assert(error.message.includes(named), error.message);
  });
}

Deno.test("loadTokenizer chooses the reader by the checkpoint's format", async () => {
  const gguf = await loadTokenizer({
    format: "gguf",
    name: "x",
    metadata: ggufMetadata({}),
    sidecar: () => Promise.resolve(null),
  });
  const folder = await loadTokenizer({
    format: "safetensors",
    name: "x",
    metadata: new Map(),
    sidecar: (file) => Promise.resolve(file === "tokenizer.json" ? tokenizerText : null),
  });
  assertEquals(gguf.encode("The gate"), folder.encode("The gate"));
  const missing = await assertRejects(() =>
    loadTokenizer({
      format: "safetensors",
      name: "x",
      metadata: new Map(),
      sidecar: () => Promise.resolve(null),
    }), FormatError);
  assert(missing.message.includes("tokenizer.json is missing"), missing.message);
});

Deno.test("a padding token beyond the vocabulary is as good as none", () => {
  const config = JSON.parse(configText);
  config.pad_token = "<pad>";
  const documents = { tokenizer: tokenizerText, tokenizerConfig: JSON.stringify(config) };
  assertEquals(tokenizerFromHuggingFace(documents, { name: "x" }).padToken, null);
});

Deno.test("documents with random changes either work or are refused with a FormatError", () => {
  let state = 3;
  const next = (below: number) => (state = (state * 48271) % 0x7fffffff) % below;
  const values = [null, 0, -1, 1.5, 1e300, "", "x", " ", "\ud800", true, [], {}, [[]], ["a", "b"]];
  let refusals = 0;
  for (let round = 0; round < 400; round++) {
    const document = JSON.parse(tokenizerText);
    for (let changes = 1 + next(2); changes > 0; changes--) {
      let at: Document = document;
      while (true) {
        const keys = Object.keys(at);
        if (keys.length === 0) break;
        const key = keys[next(keys.length)];
        const inner = at[key];
        if (typeof inner === "object" && inner !== null && next(4) > 0) {
          at = inner;
          continue;
        }
        if (next(5) === 0) delete at[key];
        else at[key] = structuredClone(values[next(values.length)]);
        break;
      }
    }
    try {
      const tokenizer = tokenizerFromHuggingFace({
        tokenizer: JSON.stringify(document),
        tokenizerConfig: configText,
      }, { name: "changed" });
      tokenizer.decode(tokenizer.encode("The expert 专家 don't <think> 12 \n\n x</think>"));
    } catch (error) {
      assert(error instanceof FormatError, `round ${round}: ${error}`);
      refusals++;
    }
  }
  assert(refusals > 200, `${refusals} refusals`);
});
