/** What a checkpoint says about itself, as a plain object that JSON can hold. Reads no tensor. */

import { architectureOf } from "./hyper_parameters.ts";
import type { MetadataValue, OtherTensorInfo, TensorInfo, TensorSource } from "./tensor_source.ts";

/** Tensors of one element type. */
export interface TypeSummary {
  readonly type: string;
  /** False where the type cannot be a weight here. */
  readonly weights: boolean;
  readonly tensors: number;
  readonly parameters: number;
  readonly bytes: number;
}

/** A metadata value cut to a length fit for reading. */
export type SummaryValue =
  | string
  | number
  | boolean
  | null
  | readonly SummaryValue[]
  | { readonly [key: string]: SummaryValue };

export interface CheckpointSummary {
  readonly format: "gguf" | "safetensors";
  readonly name: string;
  /** Bytes on disk, all files together. */
  readonly fileBytes: number;
  readonly architecture: string;
  /** By the file's own keys, in its order. */
  readonly hyperParameters: Readonly<Record<string, SummaryValue>>;
  readonly tensors: number;
  /** Values in tensors of weight types. */
  readonly parameters: number;
  /** By bytes, the largest first. */
  readonly types: readonly TypeSummary[];
}

/** Longer arrays are given by their length, longer strings by their beginning. */
const MAX_ITEMS = 16;
const MAX_CHARACTERS = 120;

/** Sums up a checkpoint; throws FormatError where it does not name its architecture. */
export function inspectCheckpoint(source: TensorSource): CheckpointSummary {
  const types = summarizeTypes(source);
  const hyperParameters: Record<string, SummaryValue> = {};
  for (const [key, value] of source.metadata) put(hyperParameters, key, summarize(value));
  return {
    format: source.format,
    name: source.name,
    fileBytes: source.byteLength,
    architecture: architectureOf(source),
    hyperParameters,
    tensors: source.tensors.size + source.otherTensors.size,
    parameters: types.reduce((sum, { weights, parameters }) => sum + (weights ? parameters : 0), 0),
    types,
  };
}

/** The values a tensor holds. */
export function parameterCount(tensor: TensorInfo | OtherTensorInfo): number {
  return tensor.shape.reduce((product, extent) => product * extent, 1);
}

function summarizeTypes(source: TensorSource): TypeSummary[] {
  const byType = new Map<string, { -readonly [K in keyof TypeSummary]: TypeSummary[K] }>();
  const add = (type: string, tensor: TensorInfo | OtherTensorInfo) => {
    let summary = byType.get(type);
    if (summary === undefined) {
      summary = { type, weights: "type" in tensor, tensors: 0, parameters: 0, bytes: 0 };
      byType.set(type, summary);
    }
    summary.tensors++;
    summary.parameters += parameterCount(tensor);
    summary.bytes += tensor.byteLength;
  };
  for (const tensor of source.tensors.values()) add(tensor.type, tensor);
  for (const tensor of source.otherTensors.values()) add(tensor.dtype, tensor);
  return [...byType.values()].sort((a, b) => b.bytes - a.bytes);
}

function summarize(value: MetadataValue): SummaryValue {
  switch (typeof value) {
    case "string":
      return value.length > MAX_CHARACTERS
        ? `${value.slice(0, MAX_CHARACTERS).toWellFormed()}... (${value.length} characters)`
        : value;
    case "bigint":
      return value.toString();
    case "number":
      return Number.isFinite(value) ? value : String(value);
    case "boolean":
      return value;
  }
  if (value === null) return null;
  if (Symbol.iterator in value) {
    const array = value as Iterable<MetadataValue> & { readonly length: number };
    return array.length > MAX_ITEMS ? `${array.length} values` : Array.from(array, summarize);
  }
  const entries = Object.entries(value);
  if (entries.length > MAX_ITEMS) return `${entries.length} entries`;
  const summary: Record<string, SummaryValue> = {};
  for (const [key, item] of entries) put(summary, key, summarize(item));
  return summary;
}

/** Assignment that treats `__proto__`, which a file may well contain, as a key like any other. */
function put(target: Record<string, SummaryValue>, key: string, value: SummaryValue): void {
  Object.defineProperty(target, key, {
    value,
    enumerable: true,
    configurable: true,
    writable: true,
  });
}
