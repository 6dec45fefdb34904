import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { FormatError, UnsupportedOpError } from "../../src/errors.ts";
import type { MetadataValue } from "../../src/formats/tensor_source.ts";
import { readModelConfig } from "../../src/model/registry.ts";
import { ggufLlama, huggingFaceDense, sourceOf, type SourceParts } from "./_source.ts";

type Fields = Record<string, MetadataValue | undefined>;

/** The configuration of a checkpoint with some fields replaced; undefined removes one. */
function configOf(parts: SourceParts, fields: Fields = {}) {
  const merged = Object.entries({ ...parts.metadata, ...fields }).filter(([, v]) =>
    v !== undefined
  );
  return readModelConfig(
    sourceOf({ ...parts, metadata: Object.fromEntries(merged) as SourceParts["metadata"] }),
  );
}

Deno.test("the same hyper-parameters are read from GGUF metadata and from config.json", () => {
  const gguf = configOf(ggufLlama());
  const huggingFace = configOf(huggingFaceDense("Llama"));
  assertEquals({ ...huggingFace, rope: { ...huggingFace.rope, pairing: "interleaved" } }, gguf);
  assertEquals(gguf.headDim, 4);
  assertEquals(huggingFace.rope.pairing, "halves");
  assert(Object.isFrozen(gguf));
});

Deno.test("optional hyper-parameters have the defaults of the formats", () => {
  const config = configOf(ggufLlama(), {
    "llama.attention.head_count_kv": undefined,
    "llama.rope.freq_base": undefined,
    "llama.vocab_size": undefined,
  });
  assertEquals([config.kvHeads, config.vocabSize], [2, 10]);
  assertAlmostEquals(config.rope.inverseFrequencies[1], 0.01, 1e-8);
});

Deno.test("a null in config.json is as good as absent", () => {
  const config = configOf(huggingFaceDense("Llama"), { head_dim: null, rope_scaling: null });
  assertEquals(config.headDim, 4);
});

Deno.test("theta and scaling are read from rope_parameters as from rope_theta and rope_scaling", () => {
  const scaling = {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 32,
  };
  const old = configOf(huggingFaceDense("Llama"), { rope_theta: 5000, rope_scaling: scaling });
  const recent = configOf(huggingFaceDense("Llama"), {
    rope_theta: undefined,
    rope_parameters: { ...scaling, rope_theta: 5000 },
  });
  assertEquals(recent, old);
  assert(old.rope.inverseFrequencies[1] < 5000 ** -0.5, "the slow pair is scaled");
});

Deno.test("GGUF's yarn keys give the frequencies of the same yarn in config.json", () => {
  const gguf = configOf(ggufLlama(), {
    "llama.rope.scaling.type": "yarn",
    "llama.rope.scaling.factor": 4,
    "llama.rope.scaling.original_context_length": 64,
  });
  const huggingFace = configOf(huggingFaceDense("Llama"), {
    rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 64 },
  });
  assertEquals(gguf.rope.inverseFrequencies, huggingFace.rope.inverseFrequencies);
  assertAlmostEquals(gguf.rope.cosSinScale, huggingFace.rope.cosSinScale, 1e-12);
  assertAlmostEquals(gguf.rope.cosSinScale, 0.1 * Math.log(4) + 1, 1e-12);
});

Deno.test("a head may be wider than hidden size over heads", () => {
  assertEquals(configOf(huggingFaceDense("Qwen3"), { head_dim: 32 }).headDim, 32);
});

Deno.test("a number per layer is taken where it is the same in all layers", () => {
  assertEquals(configOf(ggufLlama(), { "llama.attention.head_count_kv": [1, 1] }).kvHeads, 1);
  assertThrows(
    () => configOf(ggufLlama(), { "llama.attention.head_count_kv": [1, 2] }),
    FormatError,
    '"llama.attention.head_count_kv" is not the same in all layers',
  );
});

const LIES: [what: string, fields: Fields, message: string][] = [
  ["no layers", { "llama.block_count": 0 }, '"llama.block_count" is 0, must be an integer from 1'],
  ["a missing layer count", { "llama.block_count": undefined }, '"llama.block_count" is missing'],
  ["a million layers", { "llama.block_count": 1e6 }, "must be an integer from 1 to 1024"],
  ["half a layer", { "llama.block_count": 1.5 }, "is 1.5, must be an integer"],
  ["a 64-bit layer count", { "llama.block_count": 2n ** 60n }, "is 1152921504606846976"],
  ["a layer count in words", { "llama.block_count": "one" }, 'is "one", must be an integer'],
  ["no heads", { "llama.attention.head_count": 0 }, '"llama.attention.head_count" is 0'],
  [
    "heads that do not divide the hidden size",
    { "llama.attention.head_count": 3, "llama.attention.head_count_kv": 3 },
    '"llama.embedding_length" is 8, must be a multiple of the 3 attention heads',
  ],
  [
    "key heads that do not divide the heads",
    { "llama.attention.head_count": 8, "llama.attention.head_count_kv": 3 },
    '"llama.attention.head_count_kv" is 3, must be a divisor of the 8 attention heads',
  ],
  [
    "more key heads than heads",
    { "llama.attention.head_count_kv": 4 },
    '"llama.attention.head_count_kv" is 4, must be an integer from 1 to 2',
  ],
  ["an odd head", { "llama.attention.key_length": 5 }, "is 5, must be even"],
  [
    "values of another width than keys",
    { "llama.attention.value_length": 6 },
    '"llama.attention.value_length" is 6, must be 4',
  ],
  [
    "heads that are too wide together",
    { "llama.attention.head_count": 4096, "llama.attention.key_length": 4096 },
    "over the 4096 heads together",
  ],
  ["a huge hidden size", { "llama.embedding_length": 2 ** 40 }, '"llama.embedding_length" is'],
  [
    "an epsilon of zero",
    { "llama.attention.layer_norm_rms_epsilon": 0 },
    "must be a number above 0",
  ],
  ["an epsilon that is no number", { "llama.attention.layer_norm_rms_epsilon": NaN }, "is NaN"],
  ["an infinite theta", { "llama.rope.freq_base": Infinity }, '"llama.rope.freq_base" is Infinity'],
  ["a negative theta", { "llama.rope.freq_base": -1 }, '"llama.rope.freq_base" is -1'],
  ["no context", { "llama.context_length": 0 }, '"llama.context_length" is 0'],
  [
    "more rotated values than a head has",
    { "llama.rope.dimension_count": 6 },
    '"llama.rope.dimension_count" is 6, must be an integer from 2 to 4',
  ],
  ["an odd number of rotated values", { "llama.rope.dimension_count": 3 }, "is 3, must be even"],
  [
    "a vocabulary that is not the embedding's",
    { "llama.vocab_size": 11 },
    '"llama.vocab_size" is 11, must be 10, the rows of the embedding',
  ],
  [
    "a scaling factor of zero",
    { "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 0 },
    '"llama.rope.scaling.factor" is 0, must be a number above 0',
  ],
];

for (const [what, fields, message] of LIES) {
  Deno.test(`GGUF metadata with ${what} is refused`, () => {
    assertThrows(() => configOf(ggufLlama(), fields), FormatError, message);
  });
}

const HUGGING_FACE_LIES: [what: string, fields: Fields, message: string][] = [
  ["a head_dim of a string", { head_dim: "4" }, '"head_dim" is "4", must be an integer'],
  ["a rope_scaling that is a list", { rope_scaling: [1] }, '"rope_scaling" is a list'],
  [
    "a llama3 scaling without its factor",
    { rope_scaling: { rope_type: "llama3", low_freq_factor: 1, high_freq_factor: 4 } },
    '"rope_scaling.factor" is missing',
  ],
  [
    "llama3 frequency factors the wrong way round",
    { rope_scaling: { rope_type: "llama3", factor: 8, low_freq_factor: 4, high_freq_factor: 1 } },
    '"rope_scaling.high_freq_factor" is 1, must be a number above 4',
  ],
  ["a tie that is no switch", { tie_word_embeddings: 1 }, '"tie_word_embeddings" is 1'],
  ["a missing vocabulary size", { vocab_size: undefined }, '"vocab_size" is missing'],
  ["no rotated values", { partial_rotary_factor: 0.1 }, '"partial_rotary_factor" is 0.1'],
];

for (const [what, fields, message] of HUGGING_FACE_LIES) {
  Deno.test(`config.json with ${what} is refused`, () => {
    assertThrows(() => configOf(huggingFaceDense("Llama"), fields), FormatError, message);
  });
}

const UNSUPPORTED: [what: string, parts: SourceParts, fields: Fields, message: string][] = [
  [
    "experts in a llama file",
    ggufLlama(),
    { "llama.expert_count": 8 },
    '"llama.expert_count" is 8',
  ],
  [
    "another activation",
    huggingFaceDense("Llama"),
    { hidden_act: "gelu" },
    '"hidden_act" is "gelu"',
  ],
  ["biases in the MLP", huggingFaceDense("Llama"), { mlp_bias: true }, '"mlp_bias" is true'],
  [
    "biases in Qwen3",
    huggingFaceDense("Qwen3"),
    { attention_bias: true },
    '"attention_bias" is true',
  ],
  [
    "a window narrower than the context",
    huggingFaceDense("Qwen2"),
    { use_sliding_window: true, sliding_window: 64 },
    '"sliding_window" is 64, must be at least 128',
  ],
  [
    "quantised safetensors",
    huggingFaceDense("Qwen2"),
    { quantization_config: { quant_method: "gptq" } },
    '"quantization_config" is present',
  ],
  [
    "a scaling that depends on the length",
    huggingFaceDense("Llama"),
    { rope_scaling: { type: "dynamic", factor: 2 } },
    'rope_type is "dynamic"',
  ],
];

for (const [what, parts, fields, message] of UNSUPPORTED) {
  Deno.test(`a model with ${what} is refused as not implemented`, () => {
    assertThrows(() => configOf(parts, fields), UnsupportedOpError, message);
  });
}

Deno.test("an architecture that is not there is refused with the names of those that are", () => {
  assertThrows(
    () => configOf(ggufLlama(), { "general.architecture": "mamba" }),
    UnsupportedOpError,
    'its architecture is "mamba", must be one of llama, qwen2, qwen3',
  );
  assertThrows(
    () => configOf(huggingFaceDense("Llama"), { architectures: ["MambaForCausalLM"] }),
    UnsupportedOpError,
    "must be one of LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM",
  );
});

Deno.test("a file that names no architecture is damaged", () => {
  assertThrows(
    () => configOf(ggufLlama(), { "general.architecture": undefined }),
    FormatError,
    '"general.architecture" is missing, must be a string',
  );
  for (const architectures of ["LlamaForCausalLM", [], [7]]) {
    assertThrows(
      () => configOf(huggingFaceDense("Llama"), { architectures }),
      FormatError,
      "must be a list that starts with a string",
    );
  }
});
