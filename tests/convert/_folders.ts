/** Hugging Face folders for tests of what is made of them: recorded models, with a tokenizer beside them. */

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
