/** Qwen2 and Qwen2.5 (Yang et al. 2024), R1-Distill-Qwen: Llama's layers with biases on q, k, v. */

import { ConfigReader } from "./config_reader.ts";
import { loadDecoder } from "./decoder.ts";
import type { DecoderConfig } from "./decoder_config.ts";
import { readGroupedDecoder } from "./grouped_decoder.ts";
import type { Architecture } from "./types.ts";

export const qwen2: Architecture<DecoderConfig> = {
  ggufName: "qwen2",
  huggingFaceNames: ["Qwen2ForCausalLM"],
  readConfig: (source) =>
    readGroupedDecoder(new ConfigReader(source, "qwen2"), {
      source,
      traits: {
        ggufPairing: "halves",
        window: "use_sliding_window",
        queryKeyValueBias: true,
        outputBias: false,
        norms: "none",
      },
    }),
  load: loadDecoder,
};
