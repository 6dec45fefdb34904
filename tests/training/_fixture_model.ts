/** The fixtures' one-layer mixture of experts as a model of ours: its configuration and its weights. */

import { loadDecoder } from "../../src/model/decoder.ts";
import { type DecoderConfig, decoderConfig } from "../../src/model/decoder_config.ts";
import { PLAIN_MIXTURE } from "../../src/model/mixture.ts";
import { ropeFrequencies } from "../../src/model/rope.ts";
import type { Model } from "../../src/model/types.ts";
import type { TapeBackend } from "../../src/training/tape/mod.ts";
import { f32Bytes, memorySource, type MemoryTensor } from "../model/_memory_source.ts";
import type { FixtureCase } from "./_fixtures.ts";

/** What a fixture calls each weight, by its name in a checkpoint; experts' are stacked there. */
const LAYER = "model.layers.0";
const NAMES: Readonly<Record<string, string>> = Object.freeze({
  embed: "model.embed_tokens.weight",
  norm1: `${LAYER}.input_layernorm.weight`,
  wq: `${LAYER}.self_attn.q_proj.weight`,
  wk: `${LAYER}.self_attn.k_proj.weight`,
  wv: `${LAYER}.self_attn.v_proj.weight`,
  wo: `${LAYER}.self_attn.o_proj.weight`,
  norm2: `${LAYER}.post_attention_layernorm.weight`,
  router: `${LAYER}.mlp.gate.weight`,
  norm_f: "model.norm.weight",
  head: "lm_head.weight",
  s_gate: `${LAYER}.mlp.shared_experts.gate_proj.weight`,
  s_up: `${LAYER}.mlp.shared_experts.up_proj.weight`,
  s_down: `${LAYER}.mlp.shared_experts.down_proj.weight`,
});
const EXPERTS: Readonly<Record<string, string>> = Object.freeze({
  w_gate: "gate_proj",
  w_up: "up_proj",
  w_down: "down_proj",
});

export const CORRECTION_BIAS = `${LAYER}.mlp.gate.e_score_correction_bias`;

/** The names that a weight of the fixture has in the checkpoint, one for each expert. */
export function checkpointNames(weight: string, experts: number): string[] {
  const part = EXPERTS[weight];
  if (part === undefined) return [NAMES[weight]];
  return Array.from({ length: experts }, (_, e) => `${LAYER}.mlp.experts.${e}.${part}.weight`);
}

export async function fixtureModel(
  { arrays, info }: FixtureCase,
  { tape, maxRows }: { tape: TapeBackend; maxRows: number },
): Promise<Model> {
  const { d, heads, head_dim: headDim, ff, experts, topk, vocab } = info.shapes;
  const isSigmoid = info.mode === "sigmoid";
  const tensors: Record<string, MemoryTensor> = {};
  const add = (name: string, shape: readonly number[], values: Float32Array) =>
    tensors[name] = { type: "F32", shape, bytes: f32Bytes(values) };
  for (const full of arrays.names.filter((name) => name.startsWith("param."))) {
    const weight = full.slice("param.".length);
    const shape = arrays.shape(full);
    const values = arrays.get(full, "F32");
    const names = checkpointNames(weight, experts);
    const each = values.length / names.length;
    const own = names.length === 1 ? shape : shape.slice(1);
    names.forEach((name, e) => add(name, own, values.slice(e * each, (e + 1) * each)));
  }
  if (isSigmoid) add(CORRECTION_BIAS, [experts], arrays.get("bias", "F32"));
  const source = memorySource({ format: "safetensors", metadata: {}, tensors });
  const config: DecoderConfig = decoderConfig({
    architecture: "fixture",
    vocabSize: vocab,
    hiddenSize: d,
    layers: 1,
    nextTokenLayers: 0,
    intermediateSize: ff,
    rmsNormEps: info.rms_eps,
    contextLength: 64,
    tiedEmbeddings: false,
  }, {
    attention: {
      ...{ kind: "grouped", heads, kvHeads: heads, headDim },
      ...{ queryKeyValueBias: false, outputBias: false, norms: "none" },
    },
    rope: {
      ...ropeFrequencies({ dim: headDim, theta: 10000, scaling: { type: "none" } }),
      ...{ dim: headDim, pairing: "halves" },
    },
    mixture: {
      ...PLAIN_MIXTURE,
      ...{ experts, topK: topk, expertSize: ff, layout: "apart" },
      sharedSize: arrays.has("param.s_gate") ? ff : 0,
      ...(isSigmoid
        ? {
          ...{ score: "sigmoid", correctionBias: true, normalise: true },
          scale: info.routed_scaling_factor,
          groups: { count: info.n_group, used: info.topk_group, rank: "topTwo" },
        } as const
        : { normalise: info.mode === "softmax_renorm" }),
    },
  });
  return await loadDecoder(config, { source, backend: tape, maxRows, maxLogitRows: maxRows });
}
