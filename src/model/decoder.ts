/**
 * Decoder-only transformers: embedding, layers of an attention and a feed-forward block around a
 * residual stream, final norm, logits. Loads the blocks that a configuration describes and records
 * steps over them.
 */

import type { Backend, KvType, Norm, Ops, Weight } from "../backend/backend.ts";
import { CapacityError, FormatError, OptionError, UnsupportedOpError } from "../errors.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import type { DecoderConfig } from "./decoder_config.ts";
import { groupedAttentionSpecs, loadGroupedAttention } from "./grouped_attention.ts";
import {
  type Block,
  type BlockContext,
  DENSE_MLP,
  gatedMlpSpecs,
  inOrder,
  loadGatedMlp,
  loadNorm,
  scaleOf,
  Workspace,
} from "./layers.ts";
import { latentAttentionSpecs, loadLatentAttention } from "./latent_attention.ts";
import { loadMixture, mixtureSpecs } from "./mixture.ts";
import { layerOf, ROPE_FACTORS_NAME, tensorName } from "./names.ts";
import { applyFrequencyFactors } from "./rope.ts";
import type { ForwardOptions, LoadModelOptions, Model, RopeConfig, RoutedLayer } from "./types.ts";
import { type MatchOptions, WeightLoader, type WeightSpec } from "./weights.ts";

/** The weights of a decoder, in the order in which a step reads them. */
export function decoderSpecs(config: DecoderConfig): WeightSpec[] {
  const { hiddenSize, vocabSize, intermediateSize, attention, mixture } = config;
  const specs: WeightSpec[] = [{ role: "tokenEmbedding", shape: [vocabSize, hiddenSize] }];
  for (const [layer, routed] of config.routed.entries()) {
    specs.push(
      ...(attention.kind === "grouped"
        ? groupedAttentionSpecs(attention, { layer, hiddenSize })
        : latentAttentionSpecs(attention, { layer, hiddenSize })),
    );
    if (routed && mixture) specs.push(...mixtureSpecs(mixture, { layer, hiddenSize }));
    else {
      specs.push(
        { role: "mlpNorm", layer, shape: [hiddenSize] },
        ...gatedMlpSpecs(DENSE_MLP, { layer, hiddenSize, intermediateSize }),
      );
    }
  }
  specs.push({ role: "outputNorm", shape: [hiddenSize] });
  if (!config.tiedEmbeddings) specs.push({ role: "output", shape: [vocabSize, hiddenSize] });
  return specs;
}

/** What is to be found in a decoder's checkpoint, and what may be there besides. */
export function decoderMatch(config: DecoderConfig, source: TensorSource): MatchOptions {
  checkTensorCount(config, source);
  const { names } = config;
  const outputName = tensorName("output", { format: source.format });
  return {
    specs: decoderSpecs(config),
    ...(names && { names }),
    // Checkpoints with tied embeddings may hold the same matrix twice; layers beyond the last one
    // predict further tokens (DeepSeek-V3's technical report, section 2.2).
    ignored: (name) =>
      (config.tiedEmbeddings && name === outputName) ||
      isNextTokenLayer(layerOf(name, source.format), config),
  };
}

/** Uploads the weights and allocates the workspace of a decoder. */
export async function loadDecoder(
  config: DecoderConfig,
  options: LoadModelOptions,
): Promise<Model> {
  const { source, backend, maxRows, maxLogitRows, onProgress } = options;
  if (options.expertGroups !== undefined) {
    throw new OptionError(
      `cannot load the model: expert groups are given, must be left to DeepSeek's models ` +
        `(this one is ${config.architecture})`,
    );
  }
  const match = decoderMatch(config, source);
  const rope = await loadRopeFactors(config.rope, source);
  const loader = new WeightLoader(source, {
    ...match,
    backend,
    ...(onProgress && { onProgress }),
  });
  const embedding = await loader.upload("tokenEmbedding");
  const workspace = new Workspace(backend, { maxRows, hiddenSize: config.hiddenSize });
  const blocks: Block[] = [];
  const routedLayers: RoutedLayer[] = [];
  const foresights: Block[] = [];
  for (const [layer, routed] of config.routed.entries()) {
    const { rmsNormEps, residualScale, attention, mixture } = config;
    const context = { layer, loader, workspace, rope, rmsNormEps, residualScale };
    const attend = attention.kind === "grouped"
      ? await loadGroupedAttention(attention, context)
      : await loadLatentAttention(attention, context);
    if (routed && mixture) {
      const foresee = options.foresee === true && routedLayers.length > 0;
      const parts = await loadMixture(mixture, context, { foresee });
      foresights.push(parts.foresee);
      const next = foresights.length;
      const foreseeNext: Block = (ops, step) => foresights[next]?.(ops, step);
      blocks.push(inOrder(attend, parts.choose, foreseeNext, parts.answer));
      routedLayers.push(parts.routed);
    } else blocks.push(inOrder(attend, await loadDense(context)));
  }
  const outputNorm = { weight: await loader.upload("outputNorm"), eps: config.rmsNormEps };
  const output = config.tiedEmbeddings ? embedding : await loader.upload("output");
  loader.finish();
  const head = headOf(backend, { config, workspace, norm: outputNorm, output, maxLogitRows });
  const watch = options.keepHidden
    ? hiddenStates(backend, { workspace, norm: outputNorm, maxRows, layers: config.layers })
    : undefined;
  const { embeddingScale } = config;

  function forward(ops: Ops, step: ForwardOptions): void {
    const { inputs, rows, logitRowCount } = step;
    checkStep("rows", { is: rows, min: 1, max: maxRows });
    checkStep("rows of logits", { is: logitRowCount, min: 0, max: maxLogitRows });
    const embed = { table: embedding, ids: inputs.ids, out: workspace.x, rows };
    ops.embed({ ...embed, ...scaleOf(embeddingScale) });
    for (const [layer, block] of blocks.entries()) {
      watch?.record(layer, ops, rows);
      block(ops, step);
    }
    watch?.record(blocks.length, ops, rows);
    if (logitRowCount > 0) head.record(ops, step);
  }

  return {
    config: Object.freeze({ ...config, rope }),
    parameters: loader.parameters,
    activeParameters: loader.activeParameters,
    logits: head.logits,
    routedLayers,
    hidden: watch?.states ?? [],
    createKvCache: (pages, type) => createCache(backend, { config, pages, type }),
    forward,
  };
}

/** A few digits of a configuration may ask for millions of tensors: seen before any is named. */
function checkTensorCount({ mixture, routed }: DecoderConfig, source: TensorSource): void {
  if (mixture?.layout !== "apart") return;
  const layers = routed.filter((isRouted) => isRouted).length;
  const { experts } = mixture;
  const is = source.tensors.size + source.otherTensors.size;
  if (is >= 3 * experts * layers) return;
  throw FormatError.of(
    `load the weights of "${source.name}"`,
    "the number of its tensors",
    is,
    `at least ${3 * experts * layers} for ${experts} experts in ${layers} layers`,
  );
}

function isNextTokenLayer(
  layer: number | undefined,
  { layers, nextTokenLayers }: DecoderConfig,
): boolean {
  return layer !== undefined && layer >= layers && layer < layers + nextTokenLayers;
}

async function loadDense(context: BlockContext): Promise<Block> {
  const norm = await loadNorm(context, { role: "mlpNorm", eps: context.rmsNormEps });
  return await loadGatedMlp(context, { roles: DENSE_MLP, norm });
}

function createCache(
  backend: Backend,
  { config, pages, type }: { config: DecoderConfig; pages: number; type: KvType },
) {
  const { attention, layers } = config;
  if (attention.kind === "latent") {
    const { latentDim, ropeDim } = attention;
    return backend.createLatentCache({ type, layers, pages, latentDim, ropeDim });
  }
  const { kvHeads, headDim } = attention;
  const widths = { kvHeads, keyDim: headDim, valueDim: headDim };
  return backend.createKvCache({ type, layers, pages, ...widths });
}

/** The final norm and the logits of the rows that are asked for. */
function headOf(
  backend: Backend,
  options: {
    config: DecoderConfig;
    workspace: Workspace;
    norm: Norm;
    output: Weight;
    maxLogitRows: number;
  },
) {
  const { config, workspace, norm, output, maxLogitRows } = options;
  const create = (width: number) =>
    backend.createBuffer({ kind: "f32", rows: maxLogitRows, width });
  const gathered = create(config.hiddenSize);
  const logits = create(config.vocabSize);
  const outputs = [{ weight: output, out: logits, ...scaleOf(config.logitScale) }];
  return {
    logits,
    record(ops: Ops, { inputs, logitRowCount: rows }: ForwardOptions): void {
      ops.gatherRows({ x: workspace.x, indices: inputs.logitRows, out: gathered, rows });
      ops.linear({ x: gathered, norm, outputs, rows });
    },
  };
}

/** Copies of the residual stream before each layer, and what the final norm makes of it at the end. */
function hiddenStates(
  backend: Backend,
  options: { workspace: Workspace; norm: Norm; maxRows: number; layers: number },
) {
  const { workspace, norm, maxRows, layers } = options;
  const { x } = workspace;
  const states = Array.from({ length: layers + 1 }, () => workspace.create("f32", x.width));
  const everyRow = workspace.create("i32", 1);
  backend.write(everyRow, Int32Array.from({ length: maxRows }, (_, row) => row));
  return {
    states,
    record(index: number, ops: Ops, rows: number): void {
      const out = states[index];
      if (index === layers) ops.rmsNorm({ ...norm, x, out, rows });
      else ops.gatherRows({ x, indices: everyRow, out, rows });
    },
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

function checkStep(what: string, { is, min, max }: { is: number; min: number; max: number }): void {
  if (Number.isInteger(is) && is >= min && is <= max) return;
  throw new CapacityError(`cannot record a step: ${what} is ${is}, must be from ${min} to ${max}`);
}
