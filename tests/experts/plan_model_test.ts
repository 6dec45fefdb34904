import { assert, assertEquals, assertThrows } from "@std/assert";
import { FormatError, OptionError, UnsupportedOpError } from "../../src/errors.ts";
import { type Config, outlineFromConfig } from "../../src/experts/outline_config.ts";
import { outlineFromTensors } from "../../src/experts/outline_tensors.ts";
import { countParameters, planModel } from "../../src/experts/plan_model.ts";
import { openCheckpoint } from "../../src/formats/open.ts";
import { sharedFolder } from "../support/fixtures.ts";

/** The fields of DeepSeek-R1's config.json that say how large it is. */
const R1: Record<string, string | number | boolean | null> = {
  model_type: "deepseek_v3",
  vocab_size: 129280,
  hidden_size: 7168,
  intermediate_size: 18432,
  moe_intermediate_size: 2048,
  num_hidden_layers: 61,
  num_nextn_predict_layers: 1,
  num_attention_heads: 128,
  num_key_value_heads: 128,
  n_shared_experts: 1,
  n_routed_experts: 256,
  num_experts_per_tok: 8,
  first_k_dense_replace: 3,
  moe_layer_freq: 1,
  q_lora_rank: 1536,
  kv_lora_rank: 512,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  v_head_dim: 128,
  attention_bias: false,
  tie_word_embeddings: false,
  max_position_embeddings: 163840,
};

function outlineOf(fields: Record<string, string | number | boolean | null>) {
  return outlineFromConfig(new Map(Object.entries(fields)), { name: "config.json" });
}

Deno.test("DeepSeek-R1 has 671B parameters, 37B active, however they are counted", () => {
  const counts = countParameters(outlineOf(R1));
  assertEquals(counts.total, 671_026_419_200);
  // DeepSeek's README_WEIGHTS.md: 36.6B with 0.9B for the head, so one row of the embedding.
  assertEquals(counts.active, 36_625_625_600);
  assertEquals(counts.activeWithTable, 36_625_625_600 - 7168 + 129280 * 7168);
  assertEquals(counts.totalWithoutEmbeddings, 671_026_419_200 - 2 * 129280 * 7168);
  assertEquals(counts.activeWithoutEmbeddings, 36_625_625_600 - 7168 - 129280 * 7168);
  assertEquals(counts.byKind.reduce((sum, { total }) => sum + total, 0), counts.total);
  assertEquals(counts.byKind.reduce((sum, { active }) => sum + active, 0), counts.active);
});

Deno.test("DeepSeek-R1's published files have 684.49B values with the module for further tokens", () => {
  const { total, mtp } = countParameters(outlineOf(R1));
  assert(mtp !== null);
  assertEquals(mtp.own, 11_610_068_224);
  // The count that its safetensors files add up to, scales left out.
  assertEquals(total + mtp.own + mtp.copies, 684_489_845_504);
  const without = countParameters(outlineOf({ ...R1, num_nextn_predict_layers: 0 }));
  assertEquals(without.mtp, null);
  assertEquals(without.total, total);
});

Deno.test("DeepSeek-R1's cache keeps 576 numbers a token and layer instead of 40,960", () => {
  const { cache } = planModel(outlineOf(R1), { storages: [], context: 1000 });
  assertEquals([cache.latent, cache.width, cache.plainWidth], [true, 576, 128 * (192 + 128)]);
  assertEquals(cache.bytesPerToken, 576 * 61 * 4);
  assertEquals(cache.bytesAtContext, 576 * 61 * 4 * 1000);
});

Deno.test("DeepSeek-R1 in FP8 has a scale for each square of 128", () => {
  const plan = planModel(outlineOf(R1), {
    storages: ["F8", "Q4_K", "BF16"],
    context: 1,
    bandwidth: 100e9,
  });
  const [f8, q4k, bf16] = plan.storages;
  assertEquals(f8.expertBytes, 3 * (2048 * 7168 + 16 * 56 * 4));
  assertEquals(q4k.expertBytes, 3 * 2048 * 7168 / 256 * 144);
  assertEquals(bf16.expertBytes, 3 * 2048 * 7168 * 2);
  // Matrices at two bytes; norms, biases and the gate at four.
  const floats = plan.parameters.byKind.find(({ kind }) => kind === "gate")?.total as number;
  const norms = 61 * (2 * 7168 + 1536 + 512) + 7168;
  assertEquals(bf16.weightBytes, (plan.parameters.total + floats + norms) * 2);
  assertEquals(bf16.readPerToken.cache, plan.cache.bytesAtContext);
  assertEquals(
    bf16.tokensPerSecond,
    100e9 / (bf16.readPerToken.weights + bf16.readPerToken.cache),
  );
  assertEquals(bf16.readPerToken.weights, (plan.parameters.active + floats + norms) * 2);
});

Deno.test("what of a model fits into a memory: the fixed part, and experts in what is left", () => {
  const fields = {
    model_type: "mixtral",
    vocab_size: 100,
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    num_local_experts: 4,
    num_experts_per_tok: 1,
    max_position_embeddings: 128,
  };
  const plan = (memoryBytes: number) =>
    planModel(outlineOf(fields), { storages: ["F32"], context: 10, memoryBytes }).storages[0];
  const expert = 3 * 64 * 32 * 4;
  const cache = 2 * 16 * 2 * 4 * 10;
  const fixed = plan(1e9).weightBytes - 8 * expert + cache;
  assertEquals(plan(1e9).expertBytes, expert);
  const all = plan(fixed + 8 * expert).memory;
  assert(all !== null);
  assertEquals([all.missingBytes, all.expertsResident, all.share], [0, 8, 1]);
  assertEquals([all.fixedBytes, all.pagedPerToken], [fixed, 0]);
  const some = plan(fixed + 4 * expert - 1).memory;
  assert(some !== null);
  assertEquals([some.expertsResident, some.expertsTotal, some.share], [3, 8, 3 / 8]);
  // One expert a layer is chosen, five of eight times it must be read.
  assertEquals(some.pagedPerToken, 2 * expert * 5 / 8);
  const none = plan(fixed + expert - 5).memory;
  assert(none !== null);
  assertEquals([none.missingBytes, none.expertsResident], [5, 0]);
});

Deno.test("an eighth of each bank is planned for caches, as the backend leaves it", () => {
  const outline = (layers: number) =>
    outlineOf({
      model_type: "llama",
      vocab_size: 1,
      hidden_size: 1024,
      intermediate_size: 16384,
      num_hidden_layers: layers,
      num_attention_heads: 8,
    });
  const plan = (layers: number) =>
    planModel(outline(layers), { storages: ["F32"], context: 1 }).storages[0];
  const banks = [16, 17, 18, 34, 36].map((layers) => {
    const { weightBytes, banks } = plan(layers);
    return [Math.ceil(weightBytes / (3.5 * 2 ** 30)), banks];
  });
  // 18 layers are 3.7 GiB: less than a bank, more than weights get of one.
  assertEquals(banks, [[1, 1], [1, 1], [2, 2], [2, 2], [3, 3]]);
});

Deno.test("rows that are no whole blocks are planned with smaller blocks", () => {
  const outline = (intermediate_size: number) =>
    outlineOf({
      model_type: "llama",
      vocab_size: 1,
      hidden_size: 256,
      intermediate_size,
      num_hidden_layers: 1,
      num_attention_heads: 4,
    });
  const bytes = (size: number) =>
    planModel(outline(size), { storages: ["Q4_K"], context: 1 }).storages[0].weightBytes;
  // Up and gate grow by rows of 144 bytes, down's 256 rows from 256 Q4_K values to 288 of Q8_0.
  assertEquals(bytes(288) - bytes(256), 2 * 32 * 144 + 256 * (9 * 34 - 144));
  assertEquals(bytes(250) - bytes(256), -2 * 6 * 144 + 256 * (500 - 144));
});

const shared = sharedFolder();

Deno.test({
  name: "what a config.json implies is what the tensors of its checkpoint are, in every family",
  ignore: shared === undefined,
  fn: async () => {
    const folder = `${shared}/fixtures/models`;
    const seen = new Set<string>();
    for (const { name } of Deno.readDirSync(folder)) {
      const source = await openCheckpoint(`${folder}/${name}`);
      try {
        const implied = outlineFromConfig(source.metadata as Config, { name });
        const found = outlineFromTensors(source);
        assertEquals(countParameters(found), countParameters(implied), name);
        const { parts: _a, ...facts } = implied;
        const { parts: _b, ...others } = found;
        assertEquals(others, facts, name);
        seen.add(implied.architecture);
      } finally {
        source.close();
      }
    }
    assertEquals(seen.size, 10);
  },
});

Deno.test({
  name: "a GGUF file is outlined as the checkpoint it was made of",
  ignore: shared === undefined,
  fn: async () => {
    for (
      const [model, file] of [
        ["deepseek_v3", "deepseek_v3.bf16.gguf"],
        ["deepseek_v3", "deepseek_v3.legacy_kv_b.gguf"],
        ["qwen3_moe", "qwen3_moe.q8_0.gguf"],
        ["granite_moe", "granite_moe.f16.gguf"],
        ["mixtral", "mixtral.f16.gguf"],
        ["olmoe", "olmoe.q8_0.gguf"],
        ["deepseek_v2_lite_27l", "deepseek_v2_lite_27l.bf16.gguf"],
      ]
    ) {
      const config = await openCheckpoint(`${shared}/fixtures/models/${model}`);
      const gguf = await openCheckpoint(`${shared}/fixtures/gguf/${model}/${file}`);
      try {
        const one = outlineFromTensors(config);
        const other = outlineFromTensors(gguf);
        assertEquals(countParameters(other), countParameters(one), file);
        assertEquals(other.cache, one.cache, file);
        const bytes = planModel(other, { storages: ["file"], context: 1 }).storages[0].weightBytes;
        const stored = [...gguf.tensors.values()].reduce((sum, t) => sum + t.byteLength, 0);
        assertEquals(bytes, stored, file);
      } finally {
        config.close();
        gguf.close();
      }
    }
  },
});

Deno.test("a configuration of an unknown family, or without its extents, is refused by name", () => {
  assertThrows(() => outlineOf({ model_type: "mamba" }), UnsupportedOpError, '"mamba"');
  assertThrows(() => outlineOf({}), UnsupportedOpError, 'model_type is ""');
  const missing = { ...R1, hidden_size: null };
  assertThrows(() => outlineOf(missing), FormatError, '"hidden_size" is missing');
  assertThrows(() => outlineOf({ ...R1, vocab_size: 0 }), FormatError, '"vocab_size" is 0');
});

Deno.test("a configuration has no bytes of a file", () => {
  const plan = () => planModel(outlineOf(R1), { storages: ["file"], context: 1 });
  assertThrows(plan, OptionError, "must be a type");
});
