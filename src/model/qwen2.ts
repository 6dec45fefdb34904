/** Qwen2 and Qwen2.5 (Yang et al. 2024), R1-Distill-Qwen: Llama's layers with biases on q, k, v. */

import { type DenseConfig, loadDense, readDenseConfig } from "./dense.ts";
import type { Architecture } from "./types.ts";

export const qwen2: Architecture<DenseConfig> = {
  ggufName: "qwen2",
  huggingFaceNames: ["Qwen2ForCausalLM"],
  readConfig: (source) =>
    readDenseConfig(source, {
      architecture: "qwen2",
      ggufPairing: "halves",
      queryKeyValueBias: true,
      attentionOutputBias: false,
      headNorms: false,
    }),
  load: loadDense,
};
