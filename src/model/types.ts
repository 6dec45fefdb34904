/** What a model is once its file has been read: hyper-parameters, and a forward pass over ops. */

import type { Backend, BatchBuffers, Buffer, KvCache, Ops } from "../backend/backend.ts";
import type { LoadProgress } from "../engine/types.ts";
import type { TensorSource } from "../formats/tensor_source.ts";

/** Rotary embedding (Su et al. 2021) with everything that scales it already folded in. */
export interface RopeConfig {
  /** Values of a head that are rotated. */
  readonly dim: number;
  /** Angle per position of each pair, float32 values, length dim / 2. */
  readonly inverseFrequencies: Float32Array;
  readonly pairing: "halves" | "interleaved";
  /** Factor on cosines and sines (YaRN's attention factor); 1 otherwise. */
  readonly cosSinScale: number;
}

/** Hyper-parameters every architecture has. Architectures extend it. */
export interface ModelConfig {
  readonly architecture: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediateSize: number;
  readonly rmsNormEps: number;
  readonly contextLength: number;
  readonly tiedEmbeddings: boolean;
  /** `loadModel` folds in the frequency divisors that GGUF keeps in a tensor. */
  readonly rope: RopeConfig;
}

/** Buffers that a step fills before the plan is submitted. */
export interface StepInputs {
  readonly ids: Buffer;
  readonly cosSin: Buffer;
  readonly batch: BatchBuffers;
  /** i32: rows whose logits are wanted. */
  readonly logitRows: Buffer;
}

export interface ForwardOptions {
  readonly inputs: StepInputs;
  readonly cache: KvCache;
  /** Rows (tokens) of this step. */
  readonly rows: number;
  /** How many of `inputs.logitRows` are used. */
  readonly logitRowCount: number;
}

/** A model on a backend. */
export interface Model {
  readonly config: ModelConfig;
  readonly parameters: number;
  readonly activeParameters: number;
  /** f32 [maxLogitRows, vocab]; holds the last submitted step's logits. */
  readonly logits: Buffer;
  createKvCache(pages: number): KvCache;
  /** Records the forward pass of a step of this shape. */
  forward(ops: Ops, options: ForwardOptions): void;
}

export interface LoadModelOptions {
  readonly source: TensorSource;
  readonly backend: Backend;
  /** Rows per step at most. */
  readonly maxRows: number;
  readonly maxLogitRows: number;
  readonly onProgress?: LoadProgress;
}

/** One family of models. Adding one is one file that exports this and one line in the registry. */
export interface Architecture<Config extends ModelConfig = ModelConfig> {
  /** `general.architecture` in GGUF. */
  readonly ggufName: string;
  /** `architectures[0]` in config.json. */
  readonly huggingFaceNames: readonly string[];
  /** Throws FormatError for values that cannot be, UnsupportedOpError for ones not implemented. */
  readConfig(source: TensorSource): Config;
  load(config: Config, options: LoadModelOptions): Promise<Model>;
}
