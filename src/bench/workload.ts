/** What is computed per token, and the prompts that every engine gets. */

import { openCheckpoint } from "../formats/open.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { tensorName } from "../model/names.ts";
import { readModelConfig } from "../model/registry.ts";

export interface Workload {
  readonly vocabSize: number;
  readonly contextLength: number;
  /** Bytes of the model's file or files. */
  readonly fileBytes: number;
  /** Bytes of weights, as the file has them, that a decoded token must read. */
  readonly bytesPerToken: number;
  /** Multiply-adds with weights of a prompt's token (all but the output matrix). */
  readonly macsPerToken: number;
  /** Multiply-adds with the output matrix, once a prompt. */
  readonly outputMacs: number;
}

/** Reads the header of the checkpoint; throws FormatError or UnsupportedOpError as loading does. */
export async function readWorkload(path: string): Promise<Workload> {
  const source = await openCheckpoint(path);
  try {
    const { vocabSize, contextLength } = readModelConfig(source);
    return { vocabSize, contextLength, fileBytes: source.byteLength, ...countWork(source) };
  } finally {
    source.close();
  }
}

function countWork(source: TensorSource) {
  const { format, tensors } = source;
  const embedding = tensors.get(tensorName("tokenEmbedding", { format }));
  const output = tensors.get(tensorName("output", { format })) ?? embedding;
  const values = (shape: readonly number[]) => shape.reduce((product, n) => product * n, 1);
  let bytesPerToken = output?.byteLength ?? 0;
  let macsPerToken = 0;
  for (const tensor of tensors.values()) {
    if (tensor.shape.length < 2 || tensor === embedding || tensor === output) continue;
    bytesPerToken += tensor.byteLength;
    macsPerToken += values(tensor.shape);
  }
  return {
    bytesPerToken,
    macsPerToken,
    outputMacs: output === undefined ? 0 : values(output.shape),
  };
}

/** Token ids that differ from their neighbours and name no special token in usual vocabularies. */
export function promptTokens(length: number, { vocabSize }: { vocabSize: number }): number[] {
  return Array.from({ length }, (_, i) => (300 + (i * 7919) % 20000) % vocabSize);
}
