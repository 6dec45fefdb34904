/** The tokenizer that belongs to a checkpoint. */

import { FormatError } from "../errors.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { tokenizerFromGguf } from "./from_gguf.ts";
import { tokenizerFromHuggingFace } from "./from_hugging_face.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Reads a GGUF file's metadata or a Hugging Face folder's documents; FormatError on damage. */
export async function loadTokenizer(
  source: Pick<TensorSource, "format" | "name" | "metadata" | "sidecar">,
): Promise<Tokenizer> {
  const { name } = source;
  if (source.format === "gguf") return tokenizerFromGguf(source.metadata, { name });
  const tokenizer = await source.sidecar("tokenizer.json");
  if (tokenizer === null) {
    const action = `read the tokenizer of ${JSON.stringify(name)}`;
    throw FormatError.of(action, "tokenizer.json", "missing", "beside the weights");
  }
  return tokenizerFromHuggingFace({
    tokenizer,
    tokenizerConfig: await source.sidecar("tokenizer_config.json"),
    generationConfig: await source.sidecar("generation_config.json"),
    specialTokensMap: await source.sidecar("special_tokens_map.json"),
  }, { name });
}
