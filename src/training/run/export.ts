/** A trained model as a folder of Hugging Face's form, which our own loader serves too. */

import { writeSafetensors } from "../../formats/safetensors/writer.ts";
import type { MetadataValue } from "../../formats/tensor_source.ts";
import type { DecoderConfig } from "../../model/decoder_config.ts";
import type { Tokenizer } from "../../tokenizer/mod.ts";
import { checkpointTensors } from "../checkpoint_tensors.ts";
import type { OutputFolder } from "../data/build/folder.ts";
import { writeText } from "../data/build/folder.ts";
import type { Workbench } from "./workbench.ts";

export interface ExportOptions {
  readonly folder: OutputFolder;
  readonly config: Readonly<Record<string, MetadataValue>>;
  readonly tokenizer: Tokenizer;
  /** tokenizer.json, tokenizer_config.json and what else belongs to it, by name. */
  readonly tokenizerFiles: Readonly<Record<string, string>>;
}

/** Writes the weights in float32 by their names in a checkpoint; config.json comes last. */
export async function exportModel(
  { backend, model, trainer }: Pick<Workbench, "backend" | "model" | "trainer">,
  { folder, config, tokenizer, tokenizerFiles }: ExportOptions,
): Promise<void> {
  const tensors = checkpointTensors(model.config as DecoderConfig, {
    backend,
    parameters: trainer.parameters,
  });
  const entries = [];
  for (const { name, shape, read } of tensors) {
    entries.push({ name, dtype: "F32" as const, shape, data: await read("value") });
  }
  folder.write("model.safetensors", writeSafetensors(entries));
  for (const [name, text] of Object.entries(tokenizerFiles)) writeText(folder, { name, text });
  const { bosToken, eosToken, padToken } = tokenizer;
  const ids = {
    ...(bosToken !== null && { bos_token_id: bosToken }),
    ...(eosToken !== null && { eos_token_id: eosToken }),
    ...(padToken !== null && { pad_token_id: padToken }),
  };
  writeText(folder, { name: "generation_config.json", text: jsonText(ids) });
  writeText(folder, {
    name: "config.json",
    text: withFloats(jsonText({ ...config, ...ids, torch_dtype: "float32" })),
  });
}

/** Fields that transformers refuses as whole numbers. */
const FLOATS = [
  ...["rms_norm_eps", "routed_scaling_factor", "rope_theta", "initializer_range"],
  ...["attention_dropout", "aux_loss_alpha", "factor", "beta_fast", "beta_slow"],
  ...["mscale", "mscale_all_dim", "attention_factor"],
];

/** `1` as `1.0`, which is another number to Python. */
function withFloats(json: string): string {
  return json.replace(new RegExp(`("(?:${FLOATS.join("|")})": -?\\d+)(?=[,\\s])`, "g"), "$1.0");
}

function jsonText(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
