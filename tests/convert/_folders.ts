/** Hugging Face folders for tests of what is made of them: recorded models, with a tokenizer beside them. */

import { type TensorEntry, writeSafetensors } from "../../src/formats/safetensors/writer.ts";
import { initialWeights } from "../../src/training/initial_weights.ts";
import { ROOT, sharedFolder } from "../support/fixtures.ts";

/** A recorded model with the tokenizer that its GGUF file was made with by llama.cpp's converter. */
export interface RecordedModel {
  readonly model: string;
  readonly tokenizer: string;
  readonly gguf: string;
  /** The type of the GGUF file's matrices. */
  readonly type: string;
}

const MODELS = [
  { name: "deepseek_v3", tokenizer: "tiny_ds", type: "Q8_0" },
  { name: "deepseek_v2_lite_27l", tokenizer: "tiny_ds", type: "BF16" },
  { name: "qwen2_tied", tokenizer: "tiny_qw", type: "F16" },
  { name: "llama_smollm2", tokenizer: "tiny_ll", type: "F16" },
  { name: "llama3_r1_distill", tokenizer: "tiny_ll", type: "Q8_0" },
] as const;

const OWN = new URL("tests/data/", ROOT).pathname;

/** Those whose files are there: one in the repository, the others in the shared folder. */
export function recordedModels(): RecordedModel[] {
  const shared = sharedFolder();
  const fixtures = shared === undefined ? `${OWN}goldens` : `${shared}/fixtures`;
  return MODELS.map(({ name, tokenizer, type }) => ({
    type,
    model: `${fixtures}/models/${name}`,
    tokenizer: `${OWN}tokenizers/${tokenizer}`,
    gguf: `${fixtures}/gguf/${name}/${name}.${type.toLowerCase()}.gguf`,
  })).filter(({ model, gguf }) => [model, gguf].every(isThere));
}

function isThere(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

/** A folder with the model and the tokenizer, in `folder`. */
export function joinFolders(folder: string, { model, tokenizer }: RecordedModel): string {
  const path = `${folder}/model`;
  Deno.mkdirSync(path);
  for (const from of [model, tokenizer]) {
    for (const { name } of Deno.readDirSync(from)) {
      if (!name.startsWith("golden")) Deno.copyFileSync(`${from}/${name}`, `${path}/${name}`);
    }
  }
  return path;
}

/**
 * A random DeepSeek-V3 as a folder. Its rows are whole blocks of k-quants, and a token takes all experts:
 * of choices that are as close as random ones, rounding would change some.
 */
export async function wideModel(
  folder: string,
  { extra = [] }: { extra?: readonly TensorEntry[] } = {},
): Promise<string> {
  const config = {
    ...{ architectures: ["DeepseekV3ForCausalLM"], model_type: "deepseek_v3", vocab_size: 512 },
    ...{ hidden_size: 256, intermediate_size: 256, moe_intermediate_size: 256 },
    ...{ first_k_dense_replace: 1, n_routed_experts: 4, n_shared_experts: 1, n_group: 1 },
    ...{ num_experts_per_tok: 4, topk_group: 1, norm_topk_prob: true, num_hidden_layers: 2 },
    ...{ routed_scaling_factor: 1.5, num_attention_heads: 2, q_lora_rank: null },
    ...{ kv_lora_rank: 256, qk_nope_head_dim: 32, qk_rope_head_dim: 16, v_head_dim: 128 },
    ...{ max_position_embeddings: 128, rms_norm_eps: 1e-6, rope_theta: 10000 },
    ...{ tie_word_embeddings: false, hidden_act: "silu" },
  };
  const source = initialWeights(config, { seed: 3, deviation: 0.04 });
  const entries: TensorEntry[] = [...extra];
  for (const { name, shape, byteLength } of source.tensors.values()) {
    const data = new Float32Array(byteLength / 4);
    await source.read(source.tensors.get(name)!, 0, new Uint8Array(data.buffer));
    entries.push({ name, dtype: "F32", shape, data });
  }
  const path = `${folder}/wide`;
  Deno.mkdirSync(path);
  Deno.writeFileSync(`${path}/model.safetensors`, writeSafetensors(entries));
  Deno.writeTextFileSync(
    `${path}/config.json`,
    JSON.stringify({
      ...config,
      // As transformers writes it, whether there is such a layer or not.
      num_nextn_predict_layers: 1,
    }),
  );
  const tokenizer = `${OWN}tokenizers/tiny_ds`;
  for (const { name } of Deno.readDirSync(tokenizer)) {
    Deno.copyFileSync(`${tokenizer}/${name}`, `${path}/${name}`);
  }
  return path;
}
