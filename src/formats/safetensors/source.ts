/** Safetensors checkpoints as a TensorSource: one file or indexed shards, and their config.json. */

import { FormatError } from "../../errors.ts";
import { quoted } from "../byte_source.ts";
import { CheckpointSource, type StoredTensor } from "../checkpoint_source.ts";
import { type JsonValue, parseStrictJson, toPlainJson } from "../json.ts";
import { MAX_SHARDS, MAX_TENSORS } from "../limits.ts";
import type { ByteSource, MetadataValue, TensorSource } from "../tensor_source.ts";
import {
  LENGTH_BYTES,
  parseSafetensorsHeader,
  readHeaderLength,
  type SafetensorsHeader,
  type SafetensorsTensor,
} from "./header.ts";

/** The index file of a sharded checkpoint: which file holds each tensor. */
export type WeightMap = ReadonlyMap<string, string>;

export interface OpenSafetensorsOptions {
  /** Base name of the file or folder, for display. */
  readonly name: string;
  /** Taken over: closed when the checkpoint is, or when opening fails. */
  readonly files: readonly ByteSource[];
  /** The text of config.json; asked for once the weights' headers are found good. */
  readonly config: () => string | Promise<string>;
  /** Required where there are several files; their names are the map's values. */
  readonly weightMap?: WeightMap;
  readonly sidecar?: (name: string) => Promise<string | null>;
}

/** Opens a checkpoint; every header is checked against its file, and the files against the index. */
export async function openSafetensors(options: OpenSafetensorsOptions): Promise<TensorSource> {
  const { files } = options;
  try {
    const parts: SafetensorsPart[] = [];
    for (const file of files) parts.push({ file, header: await readSafetensorsHeader(file) });
    const config = await options.config();
    return assembleSafetensors(parts, { ...options, config: () => config });
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
}

/** A file with its parsed header. */
export interface SafetensorsPart {
  readonly file: ByteSource;
  readonly header: SafetensorsHeader;
}

/** The checkpoint that parsed files make; throws FormatError where they don't fit. */
export function assembleSafetensors(
  parts: readonly SafetensorsPart[],
  options: Omit<OpenSafetensorsOptions, "files" | "config"> & { config: () => string },
): TensorSource {
  const tensors = parts.flatMap(({ file, header }) =>
    header.tensors.map((tensor) => asStored(tensor, file))
  );
  if (options.weightMap !== undefined) checkWeightMap(options.weightMap, tensors);
  return new CheckpointSource({
    format: "safetensors",
    name: options.name,
    files: parts.map(({ file }) => file),
    tensors,
    metadata: parseConfig(options.config()),
    sidecar: options.sidecar,
  });
}

/** Reads and checks one file's header. */
export async function readSafetensorsHeader(file: ByteSource): Promise<SafetensorsHeader> {
  const first = new Uint8Array(Math.min(file.size, LENGTH_BYTES));
  await file.read(0, first);
  const json = new Uint8Array(readHeaderLength(first, file));
  await file.read(LENGTH_BYTES, json);
  return parseSafetensorsHeader(json, file);
}

function asStored(tensor: SafetensorsTensor, file: ByteSource): StoredTensor {
  const { name, dtype, weight, byteLength, offset } = tensor;
  if (weight !== null && tensor.shape.includes(0)) {
    throw FormatError.of(
      `read safetensors ${quoted(file.name)}`,
      `the shape of tensor ${quoted(name)}`,
      `[${tensor.shape.join(", ")}]`,
      "without zero extents (it is a weight)",
    );
  }
  // A scalar is a row of one value, so that every tensor has a row length.
  const shape = tensor.shape.length === 0 ? [1] : tensor.shape;
  const info = weight === null
    ? { name, dtype, shape, byteLength }
    : { name, type: weight, shape, byteLength };
  return { info, file, offset };
}

/** Parses model.safetensors.index.json. File names must be plain names ending in .safetensors. */
export function parseWeightMap(text: string, fileName: string): WeightMap {
  const action = `read ${quoted(fileName)}`;
  const root = parseStrictJson(text, { action, maxDepth: 4 });
  const map = root instanceof Map ? root.get("weight_map") as JsonValue | undefined : undefined;
  if (!(map instanceof Map)) {
    throw FormatError.of(action, `"weight_map"`, "missing or not an object", "an object");
  }
  const weightMap = map as ReadonlyMap<string, JsonValue>;
  if (weightMap.size === 0 || weightMap.size > MAX_TENSORS) {
    throw FormatError.of(action, `the size of "weight_map"`, weightMap.size, `1..${MAX_TENSORS}`);
  }
  for (const [tensor, file] of weightMap) {
    // Nothing but a name beside the index: no folders, no way out of the checkpoint's own.
    if (typeof file !== "string" || !/^[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors$/.test(file)) {
      throw FormatError.of(
        action,
        `the file of tensor ${quoted(tensor)}`,
        typeof file === "string" ? quoted(file) : typeof file,
        "the plain name of a .safetensors file",
      );
    }
  }
  const fileCount = new Set(weightMap.values()).size;
  if (fileCount > MAX_SHARDS) {
    throw FormatError.of(action, "the number of shards", fileCount, `at most ${MAX_SHARDS}`);
  }
  return weightMap as WeightMap;
}

/** Index and shards must name the same tensors in the same files. */
function checkWeightMap(weightMap: WeightMap, tensors: readonly StoredTensor[]): void {
  const action = "read the checkpoint's index";
  const found = new Set<string>();
  for (const { info, file } of tensors) {
    const stated = weightMap.get(info.name);
    if (stated !== file.name) {
      throw FormatError.of(
        action,
        `the file of tensor ${quoted(info.name)}`,
        stated === undefined ? "missing" : quoted(stated),
        `${quoted(file.name)}, which holds it`,
      );
    }
    found.add(info.name);
  }
  for (const [name, file] of weightMap) {
    if (!found.has(name)) {
      throw FormatError.of(action, `tensor ${quoted(name)}`, "missing", `in ${quoted(file)}`);
    }
  }
}

function parseConfig(text: string): ReadonlyMap<string, MetadataValue> {
  const action = `read "config.json"`;
  const root = parseStrictJson(text, { action, maxValues: 1_000_000 });
  if (!(root instanceof Map)) {
    throw FormatError.of(action, "its content", "not an object", "an object");
  }
  const metadata = new Map<string, MetadataValue>();
  for (const [key, value] of root as ReadonlyMap<string, JsonValue>) {
    metadata.set(key, toPlainJson(value));
  }
  return metadata;
}
