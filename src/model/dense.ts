/**
 * Decoder-only transformers whose layers are grouped-query attention and one gated MLP: reading and
 * checking their hyper-parameters, naming their weights, and the forward pass. An architecture states
 * its traits; what no trait covers belongs in that architecture's own file.
 */

import type { Norm, Ops, Weight } from "../backend/backend.ts";
import { CapacityError, UnsupportedOpError } from "../errors.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { type ConfigKey, ConfigReader } from "./config_reader.ts";
import {
  type AttentionWeights,
  createWorkspace,
  type GatedMlpWeights,
  recordAttention,
  recordGatedMlp,
  recordHead,
} from "./layers.ts";
import { ROPE_FACTORS_NAME, tensorName } from "./names.ts";
import { applyFrequencyFactors, readRope } from "./rope.ts";
import type { ForwardOptions, LoadModelOptions, Model, ModelConfig, RopeConfig } from "./types.ts";
import { type LoadedWeights, loadWeights, type WeightSpec } from "./weights.ts";

/** What tells dense architectures apart. */
export interface DenseTraits {
  readonly architecture: string;
  /** Pairs of a head that are rotated together in GGUF files; Hugging Face's are always halves. */
  readonly ggufPairing: RopeConfig["pairing"];
  readonly queryKeyValueBias: boolean;
  readonly attentionOutputBias: boolean;
  /** Each head of queries and keys is normalised. */
  readonly headNorms: boolean;
}

export interface DenseConfig extends ModelConfig {
  readonly queryKeyValueBias: boolean;
  readonly attentionOutputBias: boolean;
  readonly headNorms: boolean;
}

const KEYS = {
  layers: { gguf: "block_count", huggingFace: "num_hidden_layers" },
  hiddenSize: { gguf: "embedding_length", huggingFace: "hidden_size" },
  heads: { gguf: "attention.head_count", huggingFace: "num_attention_heads" },
  kvHeads: { gguf: "attention.head_count_kv", huggingFace: "num_key_value_heads" },
  headDim: { gguf: "attention.key_length", huggingFace: "head_dim" },
  valueDim: { gguf: "attention.value_length", huggingFace: "head_dim" },
  intermediateSize: { gguf: "feed_forward_length", huggingFace: "intermediate_size" },
  rmsNormEps: { gguf: "attention.layer_norm_rms_epsilon", huggingFace: "rms_norm_eps" },
  contextLength: { gguf: "context_length", huggingFace: "max_position_embeddings" },
  vocabSize: { gguf: "vocab_size", huggingFace: "vocab_size" },
  tiedEmbeddings: { gguf: "tie_word_embeddings", huggingFace: "tie_word_embeddings" },
  activation: { gguf: "hidden_act", huggingFace: "hidden_act" },
  experts: { gguf: "expert_count", huggingFace: "num_local_experts" },
  slidingWindow: { gguf: "attention.sliding_window", huggingFace: "sliding_window" },
  useSlidingWindow: { gguf: "use_sliding_window", huggingFace: "use_sliding_window" },
} as const satisfies Record<string, ConfigKey>;

// Bounds well above any published model: they keep products of two within exact integers.
const MAX_LAYERS = 1024;
const MAX_WIDTH = 2 ** 20;
const MAX_HEADS = 4096;
const MAX_HEAD_DIM = 4096;
const MAX_VOCAB = 2 ** 24;
const MAX_CONTEXT = 2 ** 30;

/** Reads and cross-checks the hyper-parameters; throws FormatError or UnsupportedOpError. */
export function readDenseConfig(source: TensorSource, traits: DenseTraits): DenseConfig {
  const reader = new ConfigReader(source, traits.architecture);
  const hiddenSize = reader.integer(KEYS.hiddenSize, { min: 1, max: MAX_WIDTH });
  const heads = reader.integer(KEYS.heads, { min: 1, max: MAX_HEADS });
  const kvHeads = reader.integer(KEYS.kvHeads, { min: 1, max: heads, fallback: heads });
  if (heads % kvHeads !== 0) {
    throw reader.contradiction(KEYS.kvHeads, {
      is: kvHeads,
      must: `a divisor of the ${heads} attention heads`,
    });
  }
  const headDim = readHeadDim(reader, { hiddenSize, heads });
  const contextLength = reader.integer(KEYS.contextLength, { min: 1, max: MAX_CONTEXT });
  const embedding = source.tensors.get(tensorName("tokenEmbedding", { format: source.format }));
  const rows = embedding?.shape[0];
  const vocabSize = reader.integer(KEYS.vocabSize, {
    min: 1,
    max: MAX_VOCAB,
    ...(source.format === "gguf" && rows !== undefined && { fallback: rows }),
  });
  if (rows !== undefined && rows !== vocabSize) {
    throw reader.contradiction(KEYS.vocabSize, {
      is: vocabSize,
      must: `${rows}, the rows of the embedding`,
    });
  }
  refuseUnsupported(reader, { contextLength });
  const output = tensorName("output", { format: source.format });
  return Object.freeze({
    architecture: traits.architecture,
    vocabSize,
    hiddenSize,
    layers: reader.integer(KEYS.layers, { min: 1, max: MAX_LAYERS }),
    heads,
    kvHeads,
    headDim,
    intermediateSize: reader.integer(KEYS.intermediateSize, { min: 1, max: MAX_WIDTH }),
    rmsNormEps: reader.number(KEYS.rmsNormEps, { above: 0, max: 1 }),
    contextLength,
    // GGUF says it by leaving the output matrix out.
    tiedEmbeddings: source.format === "gguf"
      ? !source.tensors.has(output)
      : reader.boolean(KEYS.tiedEmbeddings, { fallback: false }),
    rope: readRope(reader, {
      headDim,
      contextLength,
      pairing: source.format === "gguf" ? traits.ggufPairing : "halves",
    }),
    queryKeyValueBias: traits.queryKeyValueBias,
    attentionOutputBias: traits.attentionOutputBias,
    headNorms: traits.headNorms,
  });
}

function readHeadDim(
  reader: ConfigReader,
  { hiddenSize, heads }: { hiddenSize: number; heads: number },
): number {
  if (!reader.has(KEYS.headDim) && hiddenSize % heads !== 0) {
    throw reader.contradiction(KEYS.hiddenSize, {
      is: hiddenSize,
      must: `a multiple of the ${heads} attention heads`,
    });
  }
  const headDim = reader.integer(KEYS.headDim, {
    min: 2,
    max: MAX_HEAD_DIM,
    fallback: hiddenSize / heads,
  });
  if (headDim % 2 !== 0) throw reader.contradiction(KEYS.headDim, { is: headDim, must: "even" });
  if (heads * headDim > MAX_WIDTH) {
    throw reader.contradiction(KEYS.headDim, {
      is: headDim,
      must: `at most ${MAX_WIDTH} over the ${heads} heads together`,
    });
  }
  const valueDim = reader.integer(KEYS.valueDim, { min: 1, max: MAX_HEAD_DIM, fallback: headDim });
  if (valueDim !== headDim) {
    throw reader.contradiction(KEYS.valueDim, {
      is: valueDim,
      must: `${headDim}, the width of a head of keys`,
    });
  }
  return headDim;
}

/** Settings under which the forward pass below would be wrong. */
function refuseUnsupported(
  reader: ConfigReader,
  { contextLength }: { contextLength: number },
): void {
  const activation = reader.text(KEYS.activation, { fallback: "silu" });
  if (activation !== "silu") {
    throw unsupported(reader.label(KEYS.activation), JSON.stringify(activation), '"silu"');
  }
  const experts = reader.integer(KEYS.experts, { min: 0, max: MAX_WIDTH, fallback: 0 });
  if (experts > 0) throw unsupported(reader.label(KEYS.experts), experts, "0 in a dense model");
  if (reader.format === "safetensors" && reader.section("quantization_config") !== undefined) {
    throw unsupported('"quantization_config"', "present", "absent");
  }
  const windowed = reader.format === "gguf"
    ? reader.has(KEYS.slidingWindow)
    : reader.boolean(KEYS.useSlidingWindow, { fallback: false });
  if (!windowed) return;
  const window = reader.integer(KEYS.slidingWindow, { min: 0, max: MAX_CONTEXT, fallback: 0 });
  if (window > 0 && window < contextLength) {
    throw unsupported(reader.label(KEYS.slidingWindow), window, `at least ${contextLength}`);
  }
}

function unsupported(what: string, is: unknown, must: string): UnsupportedOpError {
  return new UnsupportedOpError(`cannot run this model: ${what} is ${is}, must be ${must}`);
}

/** The weights of a dense model, in the order in which a step reads them. */
export function denseWeightSpecs(config: DenseConfig): WeightSpec[] {
  const { hiddenSize, vocabSize, headDim, intermediateSize } = config;
  const queryWidth = config.heads * headDim;
  const kvWidth = config.kvHeads * headDim;
  const specs: WeightSpec[] = [{ role: "tokenEmbedding", shape: [vocabSize, hiddenSize] }];
  for (let layer = 0; layer < config.layers; layer++) {
    specs.push(
      { role: "attentionNorm", layer, shape: [hiddenSize] },
      { role: "query", layer, shape: [queryWidth, hiddenSize] },
      { role: "key", layer, shape: [kvWidth, hiddenSize] },
      { role: "value", layer, shape: [kvWidth, hiddenSize] },
    );
    if (config.queryKeyValueBias) {
      specs.push(
        { role: "queryBias", layer, shape: [queryWidth] },
        { role: "keyBias", layer, shape: [kvWidth] },
        { role: "valueBias", layer, shape: [kvWidth] },
      );
    }
    if (config.headNorms) {
      specs.push(
        { role: "queryNorm", layer, shape: [headDim] },
        { role: "keyNorm", layer, shape: [headDim] },
      );
    }
    specs.push({ role: "attentionOutput", layer, shape: [hiddenSize, queryWidth] });
    if (config.attentionOutputBias) {
      specs.push({ role: "attentionOutputBias", layer, shape: [hiddenSize] });
    }
    specs.push(
      { role: "mlpNorm", layer, shape: [hiddenSize] },
      { role: "gate", layer, shape: [intermediateSize, hiddenSize] },
      { role: "up", layer, shape: [intermediateSize, hiddenSize] },
      { role: "down", layer, shape: [hiddenSize, intermediateSize] },
    );
  }
  specs.push({ role: "outputNorm", shape: [hiddenSize] });
  if (!config.tiedEmbeddings) specs.push({ role: "output", shape: [vocabSize, hiddenSize] });
  return specs;
}

/** Uploads the weights and allocates the workspace of a dense model. */
export async function loadDense(config: DenseConfig, options: LoadModelOptions): Promise<Model> {
  const { source, backend, maxRows, maxLogitRows, onProgress } = options;
  const rope = await loadRopeFactors(config.rope, source);
  const weights = await loadWeights(source, {
    specs: denseWeightSpecs(config),
    // Checkpoints with tied embeddings may hold the same matrix twice.
    ignored: config.tiedEmbeddings ? [tensorName("output", { format: source.format })] : [],
    backend,
    ...(onProgress && { onProgress }),
  });
  const workspace = createWorkspace(backend, { ...config, maxRows, maxLogitRows });
  const embedding = weights.get("tokenEmbedding");
  const output = weights.find("output") ?? embedding;
  const norm = normOf(weights.get("outputNorm"), config);
  const layers = Array.from({ length: config.layers }, (_, layer) => ({
    attention: attentionWeights(weights, { config, layer }),
    mlp: mlpWeights(weights, { config, layer }),
  }));

  function forward(ops: Ops, { inputs, cache, rows, logitRowCount }: ForwardOptions): void {
    checkStep("rows", { is: rows, min: 1, max: maxRows });
    checkStep("rows of logits", { is: logitRowCount, min: 0, max: maxLogitRows });
    ops.embed({ table: embedding, ids: inputs.ids, out: workspace.x, rows });
    for (const [layer, { attention, mlp }] of layers.entries()) {
      const { heads, headDim } = config;
      recordAttention(ops, {
        weights: attention,
        heads,
        headDim,
        rope,
        layer,
        cache,
        inputs,
        workspace,
        rows,
      });
      recordGatedMlp(ops, { weights: mlp, workspace, rows });
    }
    if (logitRowCount > 0) {
      recordHead(ops, { norm, output, inputs, workspace, rows: logitRowCount });
    }
  }

  return {
    config: Object.freeze({ ...config, rope }),
    parameters: weights.parameters,
    activeParameters: weights.parameters,
    logits: workspace.logits,
    createKvCache: (pages) =>
      backend.createKvCache({
        layers: config.layers,
        pages,
        kvHeads: config.kvHeads,
        keyDim: config.headDim,
        valueDim: config.headDim,
      }),
    forward,
  };
}

/** Folds GGUF's frequency divisors into the rotary embedding, where the file has them. */
async function loadRopeFactors(rope: RopeConfig, source: TensorSource): Promise<RopeConfig> {
  const tensor = source.format === "gguf" ? source.tensors.get(ROPE_FACTORS_NAME) : undefined;
  if (tensor === undefined) return rope;
  const pairs = rope.dim / 2;
  if (tensor.type !== "F32" || tensor.shape.length !== 1 || tensor.shape[0] !== pairs) {
    throw new UnsupportedOpError(
      `cannot load rotary frequencies: ${ROPE_FACTORS_NAME} is ${tensor.type} ` +
        `[${tensor.shape.join(", ")}], must be F32 [${pairs}]`,
    );
  }
  const bytes = new Uint8Array(pairs * 4);
  await source.read(tensor, 0, bytes);
  const view = new DataView(bytes.buffer);
  const factors = Float32Array.from({ length: pairs }, (_, i) => view.getFloat32(i * 4, true));
  return applyFrequencyFactors(rope, factors);
}

function attentionWeights(
  weights: LoadedWeights,
  { config, layer }: { config: DenseConfig; layer: number },
): AttentionWeights {
  const projection = (
    role: "query" | "key" | "value" | "attentionOutput",
    biasRole: "queryBias" | "keyBias" | "valueBias" | "attentionOutputBias",
  ) => {
    const bias = weights.find(biasRole, layer);
    return { weight: weights.get(role, layer), ...(bias && { bias }) };
  };
  const headNorm = (role: "queryNorm" | "keyNorm") => normOf(weights.get(role, layer), config);
  return {
    norm: normOf(weights.get("attentionNorm", layer), config),
    query: projection("query", "queryBias"),
    key: projection("key", "keyBias"),
    value: projection("value", "valueBias"),
    output: projection("attentionOutput", "attentionOutputBias"),
    ...(config.headNorms && { queryNorm: headNorm("queryNorm"), keyNorm: headNorm("keyNorm") }),
  };
}

function mlpWeights(
  weights: LoadedWeights,
  { config, layer }: { config: DenseConfig; layer: number },
): GatedMlpWeights {
  return {
    norm: normOf(weights.get("mlpNorm", layer), config),
    gate: weights.get("gate", layer),
    up: weights.get("up", layer),
    down: weights.get("down", layer),
  };
}

function normOf(weight: Weight, config: DenseConfig): Norm {
  return { weight, eps: config.rmsNormEps };
}

function checkStep(what: string, { is, min, max }: { is: number; min: number; max: number }): void {
  if (Number.isInteger(is) && is >= min && is <= max) return;
  throw new CapacityError(`cannot record a step: ${what} is ${is}, must be from ${min} to ${max}`);
}
