/**
 * The configuration of a decoder-only transformer: what every family has, read and checked, and the
 * blocks that the family's own file describes.
 */

import { UnsupportedOpError } from "../errors.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import type { ConfigKey, ConfigReader } from "./config_reader.ts";
import type { GroupedAttentionConfig } from "./grouped_attention.ts";
import type { LatentAttentionConfig } from "./latent_attention.ts";
import { MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH } from "./limits.ts";
import type { MixtureConfig } from "./mixture.ts";
import { type NameOverrides, tensorName } from "./names.ts";
import { readQuantization } from "./quantization.ts";
import type { ModelConfig } from "./types.ts";

export interface DecoderConfig extends ModelConfig {
  readonly attention: GroupedAttentionConfig | LatentAttentionConfig;
  /** Absent in dense models. */
  readonly mixture?: MixtureConfig;
  /** Of each layer, whether its feed-forward block is the mixture. */
  readonly routed: readonly boolean[];
  /** Factor on embeddings, on what each block adds, and on logits; 1 but in Granite. */
  readonly embeddingScale: number;
  readonly residualScale: number;
  readonly logitScale: number;
  /** Layers after the last one that predict further tokens; they are not loaded. */
  readonly nextTokenLayers: number;
  /** Weights that this family calls otherwise. */
  readonly names?: NameOverrides;
}

/** What a decoder has whatever its blocks are. */
export type BaseConfig = Pick<
  DecoderConfig,
  | "architecture"
  | "vocabSize"
  | "hiddenSize"
  | "layers"
  | "nextTokenLayers"
  | "intermediateSize"
  | "rmsNormEps"
  | "contextLength"
  | "tiedEmbeddings"
>;

const KEYS = {
  layers: { gguf: "block_count", huggingFace: "num_hidden_layers" },
  nextTokenLayers: { gguf: "nextn_predict_layers", huggingFace: "num_nextn_predict_layers" },
  hiddenSize: { gguf: "embedding_length", huggingFace: "hidden_size" },
  intermediateSize: { gguf: "feed_forward_length", huggingFace: "intermediate_size" },
  rmsNormEps: { gguf: "attention.layer_norm_rms_epsilon", huggingFace: "rms_norm_eps" },
  contextLength: { gguf: "context_length", huggingFace: "max_position_embeddings" },
  vocabSize: { gguf: "vocab_size", huggingFace: "vocab_size" },
  tiedEmbeddings: { gguf: "tie_word_embeddings", huggingFace: "tie_word_embeddings" },
  activation: { gguf: "hidden_act", huggingFace: "hidden_act" },
} as const satisfies Record<string, ConfigKey>;

/** Reads what every decoder has; throws FormatError or UnsupportedOpError. */
export function readBase(reader: ConfigReader, source: TensorSource): BaseConfig {
  const hiddenSize = reader.integer(KEYS.hiddenSize, { min: 1, max: MAX_WIDTH });
  const contextLength = reader.integer(KEYS.contextLength, { min: 1, max: MAX_CONTEXT });
  const { format } = source;
  const rows = source.tensors.get(tensorName("tokenEmbedding", { format }))?.shape[0];
  const vocabSize = reader.integer(KEYS.vocabSize, {
    min: 1,
    max: MAX_VOCAB,
    ...(format === "gguf" && rows !== undefined && { fallback: rows }),
  });
  if (rows !== undefined && rows !== vocabSize) {
    throw reader.contradiction(KEYS.vocabSize, {
      is: vocabSize,
      must: `${rows}, the rows of the embedding`,
    });
  }
  const activation = reader.text(KEYS.activation, { fallback: "silu" });
  if (activation !== "silu") {
    throw reader.unsupported(KEYS.activation, { is: activation, must: '"silu"' });
  }
  return {
    architecture: reader.architecture,
    vocabSize,
    hiddenSize,
    ...readLayers(reader),
    intermediateSize: reader.integer(KEYS.intermediateSize, { min: 1, max: MAX_WIDTH }),
    rmsNormEps: reader.number(KEYS.rmsNormEps, { above: 0, max: 1 }),
    contextLength,
    // GGUF says it by leaving the output matrix out.
    tiedEmbeddings: format === "gguf"
      ? !source.tensors.has(tensorName("output", { format }))
      : reader.boolean(KEYS.tiedEmbeddings, { fallback: false }),
  };
}

/** GGUF counts the layers that predict further tokens, config.json does not. */
function readLayers(reader: ConfigReader): Pick<BaseConfig, "layers" | "nextTokenLayers"> {
  const counted = reader.integer(KEYS.layers, { min: 1, max: MAX_LAYERS });
  const gguf = reader.format === "gguf";
  const nextTokenLayers = reader.integer(KEYS.nextTokenLayers, {
    min: 0,
    max: gguf ? counted - 1 : MAX_LAYERS,
    fallback: 0,
  });
  return { layers: gguf ? counted - nextTokenLayers : counted, nextTokenLayers };
}

/** How config.json says that a window is in use: by its width alone, or by a switch as well. */
export type WindowSwitch = "width" | "use_sliding_window";

/** Throws UnsupportedOpError where a row would see fewer tokens than the context has. */
export function refuseWindow(
  reader: ConfigReader,
  { contextLength, by }: { contextLength: number; by: WindowSwitch },
): void {
  const use = { gguf: by, huggingFace: by };
  const switched = reader.format === "safetensors" && by !== "width";
  if (switched && !reader.boolean(use, { fallback: false })) return;
  const key = { gguf: "attention.sliding_window", huggingFace: "sliding_window" };
  const window = reader.integer(key, { min: 0, max: MAX_CONTEXT, fallback: 0 });
  if (window === 0 || window >= contextLength) return;
  throw reader.unsupported(key, { is: window, must: `at least ${contextLength}` });
}

/** Throws UnsupportedOpError for weights in MXFP4 blocks, which only GPT-OSS's checkpoints have. */
export function refuseMxfp4(source: TensorSource): void {
  if (readQuantization(source).method !== "mxfp4") return;
  throw new UnsupportedOpError(
    'cannot run this model: "quantization_config.quant_method" is "mxfp4", must be fp8 or absent',
  );
}

/** The whole configuration, from what was read and the blocks. */
export function decoderConfig(
  base: BaseConfig,
  blocks:
    & Pick<DecoderConfig, "attention" | "rope">
    & Partial<
      Pick<
        DecoderConfig,
        "mixture" | "routed" | "embeddingScale" | "residualScale" | "logitScale" | "names"
      >
    >,
): DecoderConfig {
  const { attention, mixture } = blocks;
  const grouped = attention.kind === "grouped";
  const { heads } = attention;
  const kvHeads = grouped ? attention.kvHeads : heads;
  const headDim = grouped ? attention.headDim : attention.nopeDim + attention.ropeDim;
  return Object.freeze({
    ...base,
    heads,
    kvHeads,
    headDim,
    cacheShape: grouped
      ? { kvHeads, keyDim: headDim, valueDim: headDim }
      : { latentDim: attention.latentDim, ropeDim: attention.ropeDim },
    routed: Object.freeze(new Array<boolean>(base.layers).fill(mixture !== undefined)),
    embeddingScale: 1,
    residualScale: 1,
    logitScale: 1,
    ...blocks,
  });
}
