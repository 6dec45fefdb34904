/** What the model loader sees of a checkpoint, whatever its file format. */

import type { TensorType } from "../quant/types.ts";

/** What tells one state of a file on the web from another; what its server doesn't say is absent. */
export interface SourceVersion {
  readonly size: number;
  /** A strong one, with its quotation marks. */
  readonly etag?: string;
  /** As the server writes it; only where it gives no strong ETag. */
  readonly lastModified?: string;
}

/** Random access to bytes that may be a file, a blob or a URL. */
export interface ByteSource {
  /** Total length in bytes. */
  readonly size: number;
  /** A short name for error messages (the file's base name). */
  readonly name: string;
  /** The path or http(s) URL that it can be opened by again; absent where there is none. */
  readonly location?: string;
  /** Another reader that opens the same location can ask for it; of files on disk it is the size. */
  readonly version?: SourceVersion;
  /**
   * Fills `into` from `offset`; rejects with FormatError where the source ends before. `until` hints
   * that reads in order are going to follow up to there, for sources where fetching ahead pays.
   */
  read(offset: number, into: Uint8Array, options?: { until?: number }): Promise<void>;
  close(): void;
}

/** One tensor of a checkpoint. */
export interface TensorInfo {
  /** The name in the file. */
  readonly name: string;
  readonly type: TensorType;
  /** Row-major extents, outermost first; the last one is the row length. GGUF's `ne`, reversed. */
  readonly shape: readonly number[];
  readonly byteLength: number;
}

/** A tensor whose elements alone are no weights here: integers, F64, F8 that needs its factors. */
export interface OtherTensorInfo {
  readonly name: string;
  /** The element type by the file's own name, `I64` or `F8_E4M3` for instance. */
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly byteLength: number;
}

/** A metadata value as the file has it; 64-bit integers that exceed 2^53 stay bigint. */
export type MetadataValue =
  | string
  | number
  | bigint
  | boolean
  | null
  | MetadataArray
  | readonly MetadataValue[]
  | { readonly [key: string]: MetadataValue };

/** A long GGUF array whose elements are decoded when asked for. */
export interface MetadataArray {
  readonly length: number;
  at(index: number): string | number | bigint | boolean;
  /**
   * Arrays of strings that keep the file's bytes: writes an element's to the beginning of `into` and
   * returns how many it has; writes nothing where `into` is too short. Unchecked UTF-8.
   */
  writeUtf8?(index: number, into: Uint8Array): number;
  [Symbol.iterator](): Iterator<string | number | bigint | boolean>;
}

/** Where a tensor's bytes begin. */
export interface TensorPlace {
  /** A path, or an http(s) URL. */
  readonly file: string;
  /** From the beginning of the file. */
  readonly offset: number;
  /** Which version of it was opened. */
  readonly version?: SourceVersion;
}

/** An opened checkpoint. Every offset and extent has been checked against the file. */
export interface TensorSource {
  readonly format: "gguf" | "safetensors";
  /** Base name of the file or folder, for display. */
  readonly name: string;
  /** Bytes on disk, all shards together. */
  readonly byteLength: number;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** The file's other tensors, checked alike; `requireTensor` names their type where one is asked for. */
  readonly otherTensors: ReadonlyMap<string, OtherTensorInfo>;
  /** GGUF: the key-value section. Safetensors: config.json, with its own key names. */
  readonly metadata: ReadonlyMap<string, MetadataValue>;
  /** Sidecar JSON documents of a Hugging Face folder by file name (tokenizer.json, ...); parsed lazily. */
  sidecar(name: string): Promise<string | null>;
  /** Reads bytes [offset, offset + into.length) of the tensor's data. */
  read(tensor: TensorInfo | OtherTensorInfo, offset: number, into: Uint8Array): Promise<void>;
  /** Where the tensor's bytes lie, for readers of their own; undefined where they have no place. */
  locate?(tensor: TensorInfo | OtherTensorInfo): TensorPlace | undefined;
  close(): void;
}
