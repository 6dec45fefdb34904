/** What a model is once its file has been read: hyper-parameters, and a forward pass over ops. */

import type { Backend, BatchBuffers, Buffer, KvType, ModelCache, Ops } from "../backend/backend.ts";
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

/** Keys and values by heads, or a latent and the rotary key that all heads share. */
export type CacheShape =
  | { readonly kvHeads: number; readonly keyDim: number; readonly valueDim: number }
  | { readonly latentDim: number; readonly ropeDim: number };

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
  /** What the cache keeps of a token in one layer. */
  readonly cacheShape: CacheShape;
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
  readonly cache: ModelCache;
  /** Rows (tokens) of this step. */
  readonly rows: number;
  /** How many of `inputs.logitRows` are used. */
  readonly logitRowCount: number;
}

/** What the gate of a mixture-of-experts layer chose in the last submitted step. */
export interface RoutedLayer {
  readonly layer: number;
  readonly experts: number;
  readonly topK: number;
  /** i32 [maxRows, topK], the best first. */
  readonly expertIds: Buffer;
  /** f32 [maxRows, topK] */
  readonly weights: Buffer;
  /**
   * With `foresee`, for all but the first of these layers: i32 [maxRows, topK], what this gate makes of
   * the residual stream as it is before the routed experts of the routed layer before.
   */
  readonly foreseen?: Buffer;
}

/** A model on a backend. */
export interface Model {
  readonly config: ModelConfig;
  readonly parameters: number;
  readonly activeParameters: number;
  /** f32 [maxLogitRows, vocab]; holds the last submitted step's logits. */
  readonly logits: Buffer;
  /** The layers with routed experts, first to last; none in a dense model. */
  readonly routedLayers: readonly RoutedLayer[];
  /**
   * With `keepHidden`: f32 [maxRows, hidden] each, the embeddings, then the residual stream after each
   * layer but the last, then what the final norm makes of the last one's (as transformers records them).
   */
  readonly hidden: readonly Buffer[];
  createKvCache(pages: number, type: KvType): ModelCache;
  /** Records the forward pass of a step of this shape. */
  forward(ops: Ops, options: ForwardOptions): void;
}

export interface LoadModelOptions {
  readonly source: TensorSource;
  readonly backend: Backend;
  /** Rows per step at most. */
  readonly maxRows: number;
  readonly maxLogitRows: number;
  /** Keep the hidden states of a step's rows for `Model.hidden`. */
  readonly keepHidden?: boolean;
  /** Compute `RoutedLayer.foreseen`: what reading experts ahead would go by. Changes no result. */
  readonly foresee?: boolean;
  readonly onProgress?: LoadProgress;
  /** Groups of experts of which a token uses so many, for files that leave them out (DeepSeek). */
  readonly expertGroups?: { readonly count: number; readonly used: number };
  /** Told, in a sentence, what a file leaves out that its answers depend on. */
  readonly onWarning?: (message: string) => void;
}

/** One family of models. Adding one is one file that exports this and one line in the registry. */
export interface Architecture<Config extends ModelConfig = ModelConfig> {
  /** `general.architecture` in GGUF; absent where files go by another family's. */
  readonly ggufName?: string;
  /** `architectures[0]` in config.json. */
  readonly huggingFaceNames: readonly string[];
  /** Throws FormatError for values that cannot be, UnsupportedOpError for ones not implemented. */
  readConfig(source: TensorSource): Config;
  load(config: Config, options: LoadModelOptions): Promise<Model>;
}
