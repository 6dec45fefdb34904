import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { FormatError, UnsupportedOpError } from "../../src/errors.ts";
import type { MetadataValue } from "../../src/formats/tensor_source.ts";
import type { DecoderConfig } from "../../src/model/decoder_config.ts";
import type { GroupedAttentionConfig } from "../../src/model/grouped_attention.ts";
import type { LatentAttentionConfig } from "../../src/model/latent_attention.ts";
import type { MixtureConfig } from "../../src/model/mixture.ts";
import { readModelConfig } from "../../src/model/registry.ts";
import {
  ggufDeepseek,
  huggingFaceDeepseek,
  huggingFaceMixture,
  legacyGgufDeepseek,
} from "./_mixtures.ts";
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

const MIXTURE_LIES: [what: string, parts: SourceParts, fields: Fields, message: string][] = [
  [
    "more experts chosen than there are",
    huggingFaceMixture("Olmoe"),
    { num_experts_per_tok: 9 },
    '"num_experts_per_tok" is 9, must be an integer from 1 to 8',
  ],
  [
    "no experts",
    huggingFaceMixture("Qwen3Moe"),
    { num_experts: 0 },
    '"num_experts" is 0, must be an integer from 1',
  ],
  [
    "a million experts",
    ggufDeepseek(),
    { "deepseek2.expert_count": 1e6 },
    '"deepseek2.expert_count" is 1000000, must be an integer from 1 to 65536',
  ],
  [
    "no experts in a token's layer",
    ggufDeepseek(),
    { "deepseek2.expert_used_count": 0 },
    '"deepseek2.expert_used_count" is 0',
  ],
  [
    "experts of no width",
    huggingFaceDeepseek("V3"),
    { moe_intermediate_size: 0 },
    '"moe_intermediate_size" is 0',
  ],
  [
    "groups that do not divide the experts",
    huggingFaceDeepseek("V3"),
    { n_group: 3 },
    '"n_group" is 3, must be a divisor of the 8 experts',
  ],
  [
    "more groups used than there are",
    huggingFaceDeepseek("V3"),
    { topk_group: 5 },
    '"topk_group" is 5, must be an integer from 1 to 4',
  ],
  [
    "groups of one expert that are ranked by two",
    huggingFaceDeepseek("V3"),
    { n_group: 8 },
    '"n_group" is 8, must be at most 4, two experts a group',
  ],
  [
    "groups too small for the experts chosen",
    ggufDeepseek(),
    { "deepseek2.expert_used_count": 5 },
    '"deepseek2.expert_group_count" is 4, must be so that the 2 groups used hold the 5 experts',
  ],
  [
    "an unknown gating function",
    ggufDeepseek(),
    { "deepseek2.expert_gating_func": 4 },
    '"deepseek2.expert_gating_func" is 4, must be an integer from 1 to 3',
  ],
  [
    "more dense layers than layers",
    ggufDeepseek(),
    { "deepseek2.leading_dense_block_count": 4 },
    '"deepseek2.leading_dense_block_count" is 4, must be an integer from 0 to 3',
  ],
  [
    "only layers that predict further tokens",
    ggufDeepseek(),
    { "deepseek2.nextn_predict_layers": 3 },
    '"deepseek2.nextn_predict_layers" is 3, must be an integer from 0 to 2',
  ],
  [
    "shared experts beyond any width",
    huggingFaceDeepseek("V3"),
    { n_shared_experts: 65536, moe_intermediate_size: 1024 },
    '"n_shared_experts" is 65536, must be at most 1024',
  ],
  [
    "a head that is all rotated",
    ggufDeepseek(),
    { "deepseek2.attention.key_length_mla": 2 },
    '"deepseek2.attention.key_length_mla" is 2, must be above 2, its rotated values',
  ],
  [
    "an odd number of rotated values in a latent head",
    huggingFaceDeepseek("V3"),
    { qk_rope_head_dim: 3 },
    '"qk_rope_head_dim" is 3, must be even',
  ],
  [
    "no latent",
    huggingFaceDeepseek("V2"),
    { kv_lora_rank: 0 },
    '"kv_lora_rank" is 0, must be an integer from 1',
  ],
  [
    "latents that are too wide over all heads",
    huggingFaceDeepseek("V3"),
    { num_attention_heads: 4096, num_key_value_heads: 4096, kv_lora_rank: 2 ** 20 },
    '"num_attention_heads" is 4096, must be at most 4 at 1048576 values each',
  ],
  [
    "an infinite factor on the experts' weights",
    ggufDeepseek(),
    { "deepseek2.expert_weights_scale": Infinity },
    '"deepseek2.expert_weights_scale" is Infinity',
  ],
  [
    "dense layers beyond the last one",
    huggingFaceMixture("Qwen3Moe"),
    { mlp_only_layers: [2] },
    '"mlp_only_layers" is a list with 2, must be a list of integers from 0 to 1',
  ],
  [
    "a number where a list of layers belongs",
    huggingFaceMixture("Qwen3Moe"),
    { mlp_only_layers: 1 },
    '"mlp_only_layers" is 1, must be a list of integers',
  ],
  [
    "a mixture every zero layers",
    huggingFaceMixture("Qwen3Moe"),
    { decoder_sparse_step: 0 },
    '"decoder_sparse_step" is 0',
  ],
  [
    "unknown kinds of layers",
    huggingFaceMixture("GptOss"),
    { layer_types: ["full_attention", "linear_attention"] },
    '"layer_types" is a list with "linear_attention"',
  ],
  [
    "kinds of some layers only",
    huggingFaceMixture("GptOss"),
    { layer_types: ["full_attention"] },
    '"layer_types" is 1 long, must be 2 long, one entry a layer',
  ],
  [
    "MXFP4 rows that are no whole blocks",
    huggingFaceMixture("GptOss"),
    { quantization_config: { quant_method: "mxfp4" } },
    "is 8, must be a multiple of 32, as MXFP4 has it",
  ],
  [
    "logits divided by nothing",
    huggingFaceMixture("GraniteMoe"),
    { logits_scaling: 0 },
    '"logits_scaling" is 0, must be a number above 0',
  ],
  [
    "FP8 tiles of no width",
    huggingFaceDeepseek("V3"),
    { quantization_config: { quant_method: "fp8", weight_block_size: [128, 0] } },
    '"quantization_config.weight_block_size" is a list with 0',
  ],
];

for (const [what, parts, fields, message] of MIXTURE_LIES) {
  Deno.test(`a mixture with ${what} is refused`, () => {
    assertThrows(() => configOf(parts, fields), FormatError, message);
  });
}

Deno.test("DeepSeek's configuration reads alike from GGUF, in either layout, and from config.json", () => {
  const gguf = configOf(ggufDeepseek()) as DecoderConfig;
  const legacy = configOf(legacyGgufDeepseek()) as DecoderConfig;
  const huggingFace = configOf(huggingFaceDeepseek("V3")) as DecoderConfig;
  const { split: _, ...attention } = gguf.attention as LatentAttentionConfig;
  for (const other of [legacy, huggingFace]) {
    assertEquals({ ...other.attention, split: true }, { ...attention, split: true });
    assertEquals(other.routed, [false, true, true]);
  }
  const { layout: _stacked, ...mixture } = gguf.mixture as MixtureConfig;
  const { layout: _apart, ...same } = huggingFace.mixture as MixtureConfig;
  assertEquals(same, mixture);
  assertEquals(mixture.groups, { count: 4, used: 2, rank: "topTwo" });
  assertEquals(legacy.mixture?.groups, undefined);
  assertEquals([gguf.cacheShape, gguf.headDim], [{ latentDim: 8, ropeDim: 2 }, 6]);
});

Deno.test("V2 ranks groups by their best expert and never normalises", () => {
  const grouped = configOf(huggingFaceDeepseek("V2")) as DecoderConfig;
  assertEquals(grouped.mixture?.groups, { count: 4, used: 2, rank: "max" });
  assertEquals([grouped.mixture?.score, grouped.mixture?.normalise], ["softmax", false]);
  const greedy = configOf(huggingFaceDeepseek("V2"), { topk_method: "greedy" }) as DecoderConfig;
  assertEquals(greedy.mixture?.groups, undefined);
  const gguf = configOf(ggufDeepseek(), { "deepseek2.expert_gating_func": 1 }) as DecoderConfig;
  assertEquals(gguf.mixture?.groups?.rank, "max");
});

Deno.test("YaRN's temperature is part of DeepSeek's scale, in either format", () => {
  const yarn = { type: "yarn", factor: 40, original_max_position_embeddings: 64 };
  const scaleOf = (fields: Fields, parts = huggingFaceDeepseek("V3")) =>
    (configOf(parts, fields) as DecoderConfig).attention.scale as number;
  const m = 0.1 * Math.log(40) + 1;
  const scaled = { ...yarn, mscale: 1, mscale_all_dim: 1 };
  assertAlmostEquals(scaleOf({ rope_scaling: scaled }), 6 ** -0.5 * m * m, 1e-12);
  assertAlmostEquals(scaleOf({ rope_scaling: yarn }), 6 ** -0.5, 1e-12);
  const gguf = {
    "deepseek2.rope.scaling.type": "yarn",
    "deepseek2.rope.scaling.factor": 40,
    "deepseek2.rope.scaling.original_context_length": 64,
    "deepseek2.rope.scaling.yarn_log_multiplier": 0.1,
  };
  assertAlmostEquals(scaleOf(gguf, ggufDeepseek()), 6 ** -0.5 * m * m, 1e-12);
  assertEquals(configOf(ggufDeepseek(), gguf).rope.cosSinScale, 1);
  assertEquals(configOf(huggingFaceDeepseek("V3"), { rope_scaling: scaled }).rope.cosSinScale, 1);
});

Deno.test("Qwen3's mixtures are in every so many layers, but for those that are listed", () => {
  const routed = (fields: Fields) =>
    (configOf(huggingFaceMixture("Qwen3Moe"), { num_hidden_layers: 5, ...fields }) as DecoderConfig)
      .routed;
  assertEquals(routed({}), [true, true, true, true, true]);
  const some = { decoder_sparse_step: 2, mlp_only_layers: [3] };
  assertEquals(routed(some), [false, true, false, false, false]);
});

Deno.test("GPT-OSS has windows where config.json says so, by default in every other layer", () => {
  const windows = (fields: Fields) => {
    const { attention } = configOf(huggingFaceMixture("GptOss"), fields) as DecoderConfig;
    return (attention as GroupedAttentionConfig).windows;
  };
  assertEquals(windows({}), [4, undefined]);
  assertEquals(windows({ layer_types: ["full_attention", "sliding_attention"] }), [undefined, 4]);
});

Deno.test("GPT-OSS's YaRN is not rounded in GGUF files, which cannot say so", () => {
  const yarn = { rope_type: "yarn", factor: 8, original_max_position_embeddings: 32 };
  const parts = huggingFaceMixture("GptOss");
  const wide = { head_dim: 64, rope_scaling: { ...yarn, truncate: false } };
  const exact = configOf(parts, wide).rope.inverseFrequencies;
  const { shapes, metadata } = ggufGptOss();
  const gguf = configOf({ format: "gguf", shapes, metadata }).rope.inverseFrequencies;
  assertEquals(gguf, exact);
  const rounded = configOf(parts, { ...wide, rope_scaling: yarn }).rope.inverseFrequencies;
  assert(exact.some((frequency, i) => frequency !== rounded[i]), "rounding makes a difference");
});

/** The keys that a converter writes. */
function ggufGptOss(): SourceParts {
  const metadata = {
    "general.architecture": "gpt-oss",
    "gpt-oss.block_count": 2,
    "gpt-oss.context_length": 128,
    "gpt-oss.embedding_length": 8,
    "gpt-oss.feed_forward_length": 6,
    "gpt-oss.attention.head_count": 2,
    "gpt-oss.attention.head_count_kv": 1,
    "gpt-oss.attention.key_length": 64,
    "gpt-oss.attention.value_length": 64,
    "gpt-oss.attention.layer_norm_rms_epsilon": 1e-6,
    "gpt-oss.attention.sliding_window": 4,
    "gpt-oss.rope.freq_base": 10000,
    "gpt-oss.rope.scaling.type": "yarn",
    "gpt-oss.rope.scaling.factor": 8,
    "gpt-oss.rope.scaling.original_context_length": 32,
    "gpt-oss.vocab_size": 10,
    "gpt-oss.expert_count": 8,
    "gpt-oss.expert_used_count": 2,
    "gpt-oss.expert_feed_forward_length": 6,
  };
  return { format: "gguf", metadata, shapes: {} };
}

const UNSUPPORTED: [what: string, parts: SourceParts, fields: Fields, message: string][] = [
  [
    "experts in a llama checkpoint",
    huggingFaceDense("Llama"),
    { num_local_experts: 8 },
    '"num_local_experts" is 8, must be 0 in a dense model',
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
    '"quantization_config.quant_method" is "gptq", must be fp8 or mxfp4',
  ],
  [
    "FP8 in another format",
    huggingFaceDeepseek("V3"),
    { quantization_config: { quant_method: "fp8", fmt: "e5m2", weight_block_size: [128, 128] } },
    '"quantization_config.fmt" is "e5m2", must be e4m3',
  ],
  [
    "one FP8 factor a matrix",
    huggingFaceDeepseek("V3"),
    { quantization_config: { quant_method: "fp8", weight_block_size: null } },
    '"quantization_config.weight_block_size" is "missing", must be rows and columns',
  ],
  [
    "MXFP4 in a family that has none",
    huggingFaceMixture("Qwen3Moe"),
    { quantization_config: { quant_method: "mxfp4" } },
    '"quantization_config.quant_method" is "mxfp4", must be fp8 or absent',
  ],
  [
    "clipped queries",
    huggingFaceMixture("Olmoe"),
    { clip_qkv: 8 },
    '"clip_qkv" is 8, must be absent',
  ],
  [
    "another way to choose experts",
    huggingFaceDeepseek("V2"),
    { topk_method: "noaux_tc" },
    '"topk_method" is "noaux_tc", must be greedy or group_limited_greedy',
  ],
  [
    "mixtures in every other layer",
    huggingFaceDeepseek("V3"),
    { moe_layer_freq: 2 },
    '"moe_layer_freq" is 2, must be 1',
  ],
  [
    "biases in latent attention",
    huggingFaceDeepseek("V3"),
    { attention_bias: true },
    '"attention_bias" is true, must be false',
  ],
  [
    "a window in Mixtral",
    huggingFaceMixture("Mixtral"),
    { sliding_window: 64 },
    '"sliding_window" is 64, must be at least 128',
  ],
  [
    "another clamp in GPT-OSS",
    huggingFaceMixture("GptOss"),
    { swiglu_limit: 6 },
    '"swiglu_limit" is 6, must be 7',
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
    'its architecture is "mamba", must be one of deepseek2, gpt-oss, granitemoe, llama, olmoe, qwen2, qwen3, qwen3moe',
  );
  assertThrows(
    () => configOf(huggingFaceDense("Llama"), { architectures: ["MambaForCausalLM"] }),
    UnsupportedOpError,
    "GraniteMoeForCausalLM, LlamaForCausalLM, MixtralForCausalLM, OlmoeForCausalLM, ",
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
