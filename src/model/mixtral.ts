/** Mixtral (Jiang et al. 2024): Llama's attention, and a mixture in each layer. Its GGUF files are `llama`. */

import type { TensorSource } from "../formats/tensor_source.ts";
import { ConfigReader } from "./config_reader.ts";
import { loadDecoder } from "./decoder.ts";
import type { DecoderConfig } from "./decoder_config.ts";
import { readGroupedDecoder } from "./grouped_decoder.ts";
import { PLAIN_MIXTURE, readExperts } from "./mixture.ts";
import type { NameOverrides } from "./names.ts";
import type { Architecture } from "./types.ts";

const MOE = "model.layers.{}.block_sparse_moe";

const NAMES: NameOverrides = Object.freeze({
  moeGate: ["blk.{}.ffn_gate_inp.weight", `${MOE}.gate.weight`],
  expertsGate: ["blk.{}.ffn_gate_exps.weight", `${MOE}.experts.{e}.w1.weight`],
  expertsUp: ["blk.{}.ffn_up_exps.weight", `${MOE}.experts.{e}.w3.weight`],
  expertsDown: ["blk.{}.ffn_down_exps.weight", `${MOE}.experts.{e}.w2.weight`],
});

/** Reads the configuration; GGUF's keys are Llama's. */
export function readMixtral(source: TensorSource): DecoderConfig {
  const reader = new ConfigReader(source, "llama");
  const config = readGroupedDecoder(reader, {
    source,
    traits: {
      ggufPairing: "interleaved",
      window: "width",
      queryKeyValueBias: false,
      outputBias: false,
      norms: "none",
    },
    rest: () => ({
      mixture: {
        ...PLAIN_MIXTURE,
        ...readExperts(reader, {
          experts: "num_local_experts",
          expertSize: "intermediate_size",
          layout: "apart",
        }),
        normalise: true,
      },
      names: NAMES,
    }),
  });
  return Object.freeze({ ...config, architecture: "mixtral" });
}

export const mixtral: Architecture<DecoderConfig> = {
  huggingFaceNames: ["MixtralForCausalLM"],
  readConfig: readMixtral,
  load: loadDecoder,
};
