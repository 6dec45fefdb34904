/** Qwen3 (Yang et al. 2025), dense and as mixture: a norm on each head of queries and keys. */

import { UnsupportedOpError } from "../errors.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { type ConfigKey, ConfigReader } from "./config_reader.ts";
import { loadDecoder } from "./decoder.ts";
import type { DecoderConfig } from "./decoder_config.ts";
import { type GroupedTraits, readGroupedDecoder } from "./grouped_decoder.ts";
import { MAX_LAYERS } from "./limits.ts";
import { type MixtureConfig, PLAIN_MIXTURE, readExperts } from "./mixture.ts";
import type { Architecture } from "./types.ts";

const TRAITS: GroupedTraits = Object.freeze({
  ggufPairing: "halves",
  window: "use_sliding_window",
  queryKeyValueBias: false,
  outputBias: false,
  norms: "head",
});

function readerOf(source: TensorSource, architecture: string): ConfigReader {
  const reader = new ConfigReader(source, architecture);
  const key = { gguf: "attention_bias", huggingFace: "attention_bias" };
  if (source.format === "safetensors" && reader.boolean(key, { fallback: false })) {
    throw new UnsupportedOpError(
      'cannot run this model: "attention_bias" is true, must be false in Qwen3',
    );
  }
  return reader;
}

/** config.json's own keys; GGUF files are mixtures in every layer and always renormalise. */
const ownKey = (name: string): ConfigKey => ({ gguf: name, huggingFace: name });

function readMixture(reader: ConfigReader): MixtureConfig {
  const gguf = reader.format === "gguf";
  return {
    ...PLAIN_MIXTURE,
    ...readExperts(reader, {
      experts: "num_experts",
      expertSize: "moe_intermediate_size",
      layout: "apart",
    }),
    normalise: gguf || reader.boolean(ownKey("norm_topk_prob"), { fallback: false }),
  };
}

/** Which layers are mixtures: every so many, but for those that are listed. */
function readRouted(reader: ConfigReader, layers: number): readonly boolean[] {
  const every = { length: layers };
  if (reader.format === "gguf") return Array.from(every, () => true);
  const step = reader.integer(ownKey("decoder_sparse_step"), {
    min: 1,
    max: MAX_LAYERS,
    fallback: 1,
  });
  const dense = reader.integers(ownKey("mlp_only_layers"), { min: 0, max: layers - 1 }) ?? [];
  return Array.from(every, (_, layer) => (layer + 1) % step === 0 && !dense.includes(layer));
}

export const qwen3: Architecture<DecoderConfig> = {
  ggufName: "qwen3",
  huggingFaceNames: ["Qwen3ForCausalLM"],
  readConfig: (source) => readGroupedDecoder(readerOf(source, "qwen3"), { source, traits: TRAITS }),
  load: loadDecoder,
};

export const qwen3Moe: Architecture<DecoderConfig> = {
  ggufName: "qwen3moe",
  huggingFaceNames: ["Qwen3MoeForCausalLM"],
  readConfig(source) {
    const reader = readerOf(source, "qwen3moe");
    return readGroupedDecoder(reader, {
      source,
      traits: TRAITS,
      rest: ({ layers }) => ({
        mixture: readMixture(reader),
        routed: Object.freeze(readRouted(reader, layers)),
      }),
    });
  },
  load: loadDecoder,
};
