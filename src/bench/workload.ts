/** What is computed per token, and the prompts that every engine gets. */

import { FormatError } from "../errors.ts";
import { openCheckpoint } from "../formats/open.ts";
import type { TensorInfo, TensorSource } from "../formats/tensor_source.ts";
import { tensorName } from "../model/names.ts";
import { readModelConfig } from "../model/registry.ts";

export interface Workload {
  readonly vocabSize: number;
  readonly contextLength: number;
  /** Bytes of the model's file or files. */
  readonly fileBytes: number;
  /** Values of all weights. */
  readonly parameters: number;
  /**
   * Values that a decoded token reads: all but the embedding table (where it is not the output matrix
   * too) and the experts that are not chosen.
   */
  readonly activeParameters: number;
  /** Bytes of weights, as the file has them, that a decoded token must read. */
  readonly bytesPerToken: number;
  /** Multiply-adds with weights of a prompt's token (all but the output matrix). */
  readonly macsPerToken: number;
  /** Multiply-adds with the output matrix, once a prompt. */
  readonly outputMacs: number;
  /** The experts that a gate chooses from; absent in a dense model. */
  readonly routed?: RoutedWork;
}

/** Routed experts of all layers that have them. */
export interface RoutedWork {
  readonly layers: number;
  readonly experts: number;
  readonly topK: number;
  /** Bytes of all of them, as the file has them. */
  readonly bytes: number;
}

/** Reads the header of the checkpoint; throws FormatError or UnsupportedOpError as loading does. */
export async function readWorkload(path: string): Promise<Workload> {
  const source = await openCheckpoint(path);
  try {
    const { vocabSize, contextLength, layers } = readModelConfig(source);
    return {
      vocabSize,
      contextLength,
      fileBytes: source.byteLength,
      ...countWork(source, { layers }),
    };
  } finally {
    source.close();
  }
}

/** Bytes of weights that a step reads in which the gates choose `experts` different ones a layer. */
export function bytesPerStep(workload: Workload, { experts }: { experts: number }): number {
  const { bytesPerToken, routed } = workload;
  if (routed === undefined) return bytesPerToken;
  return bytesPerToken + (experts - routed.topK) / routed.experts * routed.bytes;
}

/** Counts the weights of the model's layers; throws FormatError as `readWorkload` does. */
export function countWork(source: TensorSource, { layers }: { layers: number }) {
  const { format, tensors } = source;
  const embedding = tensors.get(tensorName("tokenEmbedding", { format }));
  const output = tensors.get(tensorName("output", { format })) ?? embedding;
  const used = [...tensors.values()].filter((tensor) => (layerOf(tensor) ?? 0) < layers);
  const isRouted = (tensor: TensorInfo) => ROUTED_NAME.test(tensor.name);
  const routed = countRouted(source, used.filter(isRouted));
  const routedShare = routed === undefined ? 0 : routed.topK / routed.experts;

  let parameters = 0;
  let activeParameters = 0;
  let bytesPerToken = output?.byteLength ?? 0;
  let macsPerToken = 0;
  for (const tensor of used) {
    const share = isRouted(tensor) ? routedShare : 1;
    parameters += values(tensor);
    if (tensor !== embedding || tensor === output) activeParameters += share * values(tensor);
    if (!isMatrix(tensor) || tensor === embedding || tensor === output) continue;
    bytesPerToken += share * tensor.byteLength;
    macsPerToken += share * values(tensor);
  }
  return {
    parameters,
    activeParameters,
    bytesPerToken,
    macsPerToken,
    outputMacs: output === undefined ? 0 : values(output),
    ...(routed === undefined ? {} : { routed }),
  };
}

/** Experts that a gate chooses from, alone or stacked; shared experts are none of them. */
const ROUTED_NAME = /_exps\.|\.experts\.|\.block_sparse_moe\.(input|output)_linear\./;

/** Counts what the gates choose from; throws FormatError where the file doesn't say how many they choose. */
function countRouted(
  { format, name, metadata }: TensorSource,
  tensors: readonly TensorInfo[],
): RoutedWork | undefined {
  if (tensors.length === 0) return undefined;
  const key = format === "gguf"
    ? `${metadata.get("general.architecture")}.expert_used_count`
    : "num_experts_per_tok";
  const topK = metadata.get(key);
  if (typeof topK !== "number" || !(topK > 0)) {
    throw FormatError.of(
      `count the work of "${name}"`,
      `"${key}"`,
      topK === undefined ? "missing" : JSON.stringify(topK),
      "a number above 0",
    );
  }
  return {
    layers: new Set(tensors.map(layerOf)).size,
    experts: Math.max(...tensors.map(expertsIn)),
    topK,
    bytes: tensors.reduce((sum, { byteLength }) => sum + byteLength, 0),
  };
}

/** Experts that a tensor stacks, or the number of those up to its own. */
function expertsIn({ name, shape }: TensorInfo): number {
  const alone = /\.experts\.(\d+)\./.exec(name);
  return alone === null ? shape[0] : Number(alone[1]) + 1;
}

/** Files may hold layers beyond the model's that predict more tokens at once; those never run. */
function layerOf({ name }: TensorInfo): number | undefined {
  const match = /^(?:blk|model\.layers)\.(\d+)\./.exec(name);
  return match === null ? undefined : Number(match[1]);
}

/** Norms are no matrices, nor are biases, stacked or not. */
function isMatrix({ name, shape }: TensorInfo): boolean {
  return shape.length >= 2 && !/[._]bias$/.test(name);
}

function values({ shape }: TensorInfo): number {
  return shape.reduce((product, n) => product * n, 1);
}

/** Token ids that differ from their neighbours and name no special token in usual vocabularies. */
export function promptTokens(length: number, { vocabSize }: { vocabSize: number }): number[] {
  return Array.from({ length }, (_, i) => (300 + (i * 7919) % 20000) % vocabSize);
}
