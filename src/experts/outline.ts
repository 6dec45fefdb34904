/**
 * What a model is made of, as far as counting goes: parts with the extents of their matrices, and what
 * a token leaves in the cache. `outline_config.ts` derives it from a config.json alone,
 * `outline_tensors.ts` from the tensors of a checkpoint.
 */

export const PART_KINDS = [
  "embedding",
  "attention",
  "norms",
  "dense feed-forward",
  "gate",
  "shared experts",
  "routed experts",
  "next-token projection",
  "head",
] as const;

export type PartKind = (typeof PART_KINDS)[number];

/** `count` matrices `[rows, cols]`. */
export interface Matrices {
  readonly rows: number;
  readonly cols: number;
  readonly count: number;
}

/** The weights of one kind in one layer. */
export interface Part {
  readonly kind: PartKind;
  /** Null for what lies before or after all layers. */
  readonly layer: number | null;
  /** Belongs to the multi-token prediction module (DeepSeek-V3, section 2.2), which decoding leaves out. */
  readonly mtp: boolean;
  readonly matrices: readonly Matrices[];
  /** Values of norms and biases. */
  readonly vectors: number;
  /** As the checkpoint has them; absent where only a configuration is known. */
  readonly bytes?: number;
  /** The same by the type of the tensor, as the file names it; absent likewise. */
  readonly bytesByType?: Readonly<Record<string, number>>;
}

export interface ModelOutline {
  readonly name: string;
  readonly architecture: string;
  readonly layers: number;
  readonly hiddenSize: number;
  readonly vocabSize: number;
  readonly contextLength: number;
  /** Routed experts of a layer and how many of them a token takes; both 0 in a dense model. */
  readonly experts: number;
  readonly topK: number;
  /** The embedding table is the head as well. */
  readonly tied: boolean;
  readonly cache: CacheOutline;
  readonly parts: readonly Part[];
  /** How the configuration says that its weights are stored, where it does: `fp8`, `mxfp4`. */
  readonly storedAs?: string;
}

/** Numbers that a token leaves in one layer's cache. */
export interface CacheOutline {
  /** Multi-head latent attention: one latent and one rope key for all heads. */
  readonly latent: boolean;
  readonly width: number;
  /** What it would be with keys and values of every query head. */
  readonly plainWidth: number;
}

/** The values of a part. */
export function parametersOf({ matrices, vectors }: Part): number {
  return matrices.reduce((sum, { rows, cols, count }) => sum + rows * cols * count, vectors);
}
