/** Hyper-parameters that cannot be right, and what inspecting a checkpoint shows. */

import { assertEquals, assertThrows } from "@std/assert";
import { FormatError } from "../../src/errors.ts";
import { memoryByteSource } from "../../src/formats/byte_source.ts";
import { parseGgufHeader } from "../../src/formats/gguf/header.ts";
import { assembleGguf } from "../../src/formats/gguf/source.ts";
import { checkHyperParameters } from "../../src/formats/hyper_parameters.ts";
import { inspectCheckpoint } from "../../src/formats/inspect.ts";
import { parseSafetensorsHeader } from "../../src/formats/safetensors/header.ts";
import { assembleSafetensors } from "../../src/formats/safetensors/source.ts";
import type { TensorSource } from "../../src/formats/tensor_source.ts";
import { buildGguf, type GgufSpec, HONEST, type KeyValue } from "./_gguf_builder.ts";
import { buildSafetensors, HONEST_DATA, HONEST_HEADER } from "./_safetensors_builder.ts";

function openSpec(spec: GgufSpec): TensorSource {
  const file = memoryByteSource(buildGguf(spec), "m.gguf");
  const bytes = buildGguf(spec);
  return assembleGguf([{ file, header: parseGgufHeader(bytes, file) }]);
}

/** The honest file with keys added or replaced. */
function withKeys(...changed: KeyValue[]): TensorSource {
  const kept = HONEST.keyValues!.filter(({ key }) => !changed.some((other) => other.key === key));
  return openSpec({ ...HONEST, keyValues: [...kept, ...changed] });
}

function withConfig(config: object): TensorSource {
  const bytes = buildSafetensors(HONEST_HEADER, { data: HONEST_DATA });
  const file = memoryByteSource(bytes, "model.safetensors");
  const json = bytes.subarray(8, bytes.length - HONEST_DATA);
  return assembleSafetensors([{ file, header: parseSafetensorsHeader(json, file) }], {
    name: "folder",
    config: () => JSON.stringify({ architectures: ["LlamaForCausalLM"], ...config }),
  });
}

const u32 = (key: string, value: number): KeyValue => ({ key, type: "uint32", value });
const f32 = (key: string, value: number): KeyValue => ({ key, type: "float32", value });
const strings = (key: string, value: string[]): KeyValue => ({
  key,
  type: "array",
  elementType: "string",
  value,
});
const ints = (key: string, value: number[]): KeyValue => ({
  key,
  type: "array",
  elementType: "int32",
  value,
});

Deno.test("an honest file's hyper-parameters pass", () => {
  checkHyperParameters(openSpec(HONEST));
  checkHyperParameters(
    withKeys(
      u32("llama.attention.head_count", 8),
      ints("llama.attention.head_count_kv", [0]),
      ints("llama.feed_forward_length", [128]),
      u32("llama.expert_count", 0),
      f32("llama.attention.layer_norm_rms_epsilon", 1e-5),
    ),
  );
  checkHyperParameters(withConfig({ hidden_size: 8, vocab_size: 5, q_lora_rank: null }));
});

const GGUF_LIES: readonly [KeyValue, string][] = [
  [u32("general.architecture", 3), `"general.architecture" is 3, must be a name`],
  [{ key: "general.architecture", type: "string", value: "../x" }, `is "../x", must be a name`],
  [u32("llama.block_count", 0), `"llama.block_count" is 0, must be a whole number from 1 to 4096`],
  [u32("llama.block_count", 4294967295), "is 4294967295, must be a whole number"],
  [f32("llama.block_count", 1.5), "is 1.5, must be a whole number"],
  [{ key: "llama.block_count", type: "string", value: "1" }, `is "1", must be a whole number`],
  [{ key: "llama.block_count", type: "int32", value: -1 }, "is -1, must be a whole number"],
  [ints("llama.block_count", [1, 1]), "is an array of 2, must be a number"],
  [
    { key: "llama.context_length", type: "uint64", value: 2n ** 63n },
    "is 9223372036854775808, must be a whole number",
  ],
  [u32("llama.embedding_length", 128), "is 128, must be 64 (the embedding table's width)"],
  [u32("llama.embedding_length", 0), "is 0, must be a whole number from 1"],
  [u32("llama.vocab_size", 7), "is 7, must be 6 (the embedding table's rows)"],
  [strings("tokenizer.ggml.tokens", ["a"]), "is 1 long, must be 6 long"],
  [u32("llama.attention.head_count", 0), "is 0, must be a whole number from 1 to 65536"],
  [ints("llama.attention.head_count", [4, -1]), "is -1, must be a whole number from 0"],
  [strings("llama.attention.head_count", ["x"]), `is "x", must be a whole number`],
  [ints("llama.attention.head_count", []), "is an array of 0, must be 1 to 4096 long"],
  [f32("llama.rope.freq_base", 0), "is 0, must be a number from"],
  [f32("llama.rope.freq_base", NaN), "is NaN, must be finite"],
  [f32("llama.rope.scaling.factor", Infinity), "is Infinity, must be finite"],
  [f32("llama.some_unknown_key", NaN), `"llama.some_unknown_key" is NaN, must be finite`],
  [f32("llama.attention.layer_norm_rms_epsilon", -1), "is -1, must be a number from 0 to 1"],
  [u32("llama.expert_count", 1_000_000), "is 1000000, must be a whole number from 0 to 65536"],
];

for (const [entry, message] of GGUF_LIES) {
  const value = "value" in entry ? JSON.stringify(entry.value, (_, v) => String(v)) : "";
  Deno.test(`${entry.type} ${entry.key} of ${value} is refused`, () => {
    assertThrows(() => checkHyperParameters(withKeys(entry)), FormatError, message);
  });
}

Deno.test("hyper-parameters that contradict each other or the tensors are refused", () => {
  assertThrows(
    () =>
      checkHyperParameters(
        withKeys(u32("llama.attention.head_count", 4), u32("llama.attention.head_count_kv", 8)),
      ),
    FormatError,
    `"llama.attention.head_count_kv" is 8, must be at most 4 ("llama.attention.head_count")`,
  );
  assertThrows(
    () =>
      checkHyperParameters(
        withKeys(u32("llama.expert_count", 4), u32("llama.expert_used_count", 5)),
      ),
    FormatError,
    `"llama.expert_used_count" is 5, must be at most 4`,
  );
  const tensors = [{ name: "blk.1.x", ne: [8], typeId: 0, byteLength: 32 }];
  assertThrows(
    () => checkHyperParameters(openSpec({ ...HONEST, tensors })),
    FormatError,
    `"llama.block_count" is 1, must be above 1, as tensor "blk.1.x" needs`,
  );
  assertThrows(
    () => checkHyperParameters(openSpec({ ...HONEST, keyValues: [] })),
    FormatError,
    `"general.architecture" is missing`,
  );
});

Deno.test("a config.json that cannot be right is refused", () => {
  const cases: readonly [object, string][] = [
    [{ architectures: [] }, `"architectures" is null, must be a list of names`],
    [{ architectures: 3 }, `"architectures" is null, must be a list of names`],
    [{ architectures: [{}] }, `"architectures" is not a number, must be a list of names`],
    [{ architectures: null }, `"model_type" is missing, must be a name`],
    [{ num_hidden_layers: "12" }, `is "12", must be a whole number`],
    [{ num_hidden_layers: 1e9 }, "is 1000000000, must be a whole number"],
    [{ hidden_size: 9 }, "is 9, must be 8 (the embedding table's width)"],
    [{ vocab_size: 6 }, "is 6, must be 5 (the embedding table's rows)"],
    [{ rope_theta: -1 }, "is -1, must be a number"],
    [{ rms_norm_eps: true }, "is true, must be a number"],
    [{ num_attention_heads: {} }, "is not a number, must be a whole number"],
    [{ num_attention_heads: 4, num_key_value_heads: 8 }, "is 8, must be at most 4"],
    [{ num_experts: 4, num_experts_per_tok: 5 }, "is 5, must be at most 4"],
  ];
  for (const [config, message] of cases) {
    assertThrows(() => checkHyperParameters(withConfig(config)), FormatError, message);
  }
});

Deno.test("inspecting shows hyper-parameters without long values, and tensors by type", () => {
  const source = withKeys(
    { key: "tokenizer.chat_template", type: "string", value: "x".repeat(500) },
    { key: "general.big", type: "uint64", value: 2n ** 64n - 1n },
    { key: "__proto__", type: "uint32", value: 7 },
    ints("tokenizer.ggml.token_type", Array.from({ length: 17 }, (_, i) => i)),
  );
  const summary = inspectCheckpoint(source);
  assertEquals(summary.architecture, "llama");
  assertEquals(summary.fileBytes, source.byteLength);
  assertEquals([summary.tensors, summary.parameters], [3, 384 + 64 + 384]);
  assertEquals(summary.types, [
    { type: "F16", weights: true, tensors: 1, parameters: 384, bytes: 768 },
    { type: "Q8_0", weights: true, tensors: 1, parameters: 384, bytes: 408 },
    { type: "F32", weights: true, tensors: 1, parameters: 64, bytes: 256 },
  ]);
  const parameters = summary.hyperParameters;
  assertEquals(parameters["llama.block_count"], 1);
  assertEquals(parameters["general.big"], "18446744073709551615");
  assertEquals(parameters["tokenizer.ggml.tokens"], ["a", "", "é", "日本", "😀", "e\u0301"]);
  assertEquals(parameters["tokenizer.ggml.token_type"], "17 values");
  assertEquals(
    parameters["tokenizer.chat_template"],
    `${"x".repeat(120)}... (500 characters)`,
  );
  assertEquals(Object.hasOwn(parameters, "__proto__"), true);
  assertEquals(JSON.parse(JSON.stringify(summary)).hyperParameters["__proto__"], 7);
});

Deno.test("inspecting counts tensors that are no weights apart", () => {
  const summary = inspectCheckpoint(withConfig({ nested: { a: [1, null, "x"], n: -0.5 } }));
  assertEquals([summary.architecture, summary.tensors, summary.parameters], [
    "LlamaForCausalLM",
    4,
    43,
  ]);
  assertEquals(summary.types.map(({ type, weights }) => [type, weights]), [
    ["BF16", true],
    ["F32", true],
    ["F8_E4M3", false],
    ["I64", false],
  ]);
  assertEquals(summary.hyperParameters["nested"], { a: [1, null, "x"], n: -0.5 });
});
