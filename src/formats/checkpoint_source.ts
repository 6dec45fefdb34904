/** The TensorSource over one or several files whose headers a reader has checked. */

import { FormatError, UnsupportedOpError } from "../errors.ts";
import { quoted } from "./byte_source.ts";
import type {
  ByteSource,
  MetadataValue,
  OtherTensorInfo,
  TensorInfo,
  TensorPlace,
  TensorSource,
} from "./tensor_source.ts";

/** A described tensor and where its bytes are: file offset `offset`, checked against the file. */
export interface StoredTensor {
  readonly info: TensorInfo | OtherTensorInfo;
  readonly file: ByteSource;
  readonly offset: number;
}

export interface CheckpointOptions {
  readonly format: "gguf" | "safetensors";
  readonly name: string;
  /** Closed with the checkpoint. */
  readonly files: readonly ByteSource[];
  readonly tensors: readonly StoredTensor[];
  readonly metadata: ReadonlyMap<string, MetadataValue>;
  /** Where sidecar documents come from; without it there are none. */
  readonly sidecar?: (name: string) => Promise<string | null>;
}

export class CheckpointSource implements TensorSource {
  readonly format: "gguf" | "safetensors";
  readonly name: string;
  readonly byteLength: number;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly otherTensors: ReadonlyMap<string, OtherTensorInfo>;
  readonly metadata: ReadonlyMap<string, MetadataValue>;
  readonly #files: readonly ByteSource[];
  readonly #stored: ReadonlyMap<string, StoredTensor>;
  readonly #sidecar: ((name: string) => Promise<string | null>) | undefined;

  /** Throws FormatError where two files hold tensors of one name. */
  constructor(options: CheckpointOptions) {
    this.format = options.format;
    this.name = options.name;
    this.metadata = options.metadata;
    this.byteLength = options.files.reduce((sum, file) => sum + file.size, 0);
    this.#files = options.files;
    this.#sidecar = options.sidecar;
    const stored = new Map<string, StoredTensor>();
    const tensors = new Map<string, TensorInfo>();
    const others = new Map<string, OtherTensorInfo>();
    for (const tensor of options.tensors) {
      const { info, file } = tensor;
      const earlier = stored.get(info.name);
      if (earlier !== undefined) {
        throw FormatError.of(
          `read ${quoted(file.name)}`,
          `tensor ${quoted(info.name)}`,
          `also in ${quoted(earlier.file.name)}`,
          "in one file",
        );
      }
      stored.set(info.name, tensor);
      if ("type" in info) tensors.set(info.name, info);
      else others.set(info.name, info);
    }
    this.#stored = stored;
    this.tensors = tensors;
    this.otherTensors = others;
  }

  sidecar(name: string): Promise<string | null> {
    return this.#sidecar === undefined ? Promise.resolve(null) : this.#sidecar(name);
  }

  locate(tensor: TensorInfo | OtherTensorInfo): TensorPlace | undefined {
    const stored = this.#stored.get(tensor.name);
    if (stored?.file.location === undefined) return undefined;
    const { location, version } = stored.file;
    return { file: location, offset: stored.offset, ...(version && { version }) };
  }

  async read(
    tensor: TensorInfo | OtherTensorInfo,
    offset: number,
    into: Uint8Array,
  ): Promise<void> {
    const stored = this.#stored.get(tensor.name);
    if (stored === undefined) {
      throw FormatError.of(
        `read ${quoted(this.name)}`,
        `tensor ${quoted(tensor.name)}`,
        "missing",
        "one of the file's",
      );
    }
    const end = offset + into.length;
    if (!Number.isSafeInteger(offset) || offset < 0 || end > stored.info.byteLength) {
      throw FormatError.of(
        `read tensor ${quoted(tensor.name)}`,
        "the wanted range",
        `bytes ${offset}..${end}`,
        `within 0..${stored.info.byteLength}`,
      );
    }
    const until = stored.offset + stored.info.byteLength;
    await stored.file.read(stored.offset + offset, into, { until });
  }

  close(): void {
    for (const file of this.#files) file.close();
  }
}

/**
 * The tensor of this name. Throws FormatError where the checkpoint has none, UnsupportedOpError where
 * its elements are of a type that weights cannot have here.
 */
export function requireTensor(source: TensorSource, name: string): TensorInfo {
  const tensor = source.tensors.get(name);
  if (tensor !== undefined) return tensor;
  const other = source.otherTensors.get(name);
  if (other !== undefined) {
    throw new UnsupportedOpError(
      `cannot use tensor ${quoted(name)}: its type is ${other.dtype}, must be a weight type`,
    );
  }
  throw FormatError.of(
    `read ${quoted(source.name)}`,
    `tensor ${quoted(name)}`,
    "missing",
    "in the checkpoint",
  );
}
