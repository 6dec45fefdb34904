/** Which type each tensor of a new GGUF file gets. */

import type { WeightRole } from "../model/names.ts";
import type { WritableType } from "../quant/quantize.ts";
import { TENSOR_TYPES } from "../quant/types.ts";

/** What a file is asked to be: one type for all matrices, or Q4_K with more bits where it pays. */
export const QUANTISATIONS = ["Q8_0", "Q4_K", "F16", "BF16", "F32"] as const;

export type Quantisation = (typeof QUANTISATIONS)[number];

/** `general.file_type`, by which llama.cpp names the whole; Q4_K is what it calls Q4_K_M. */
export const FILE_TYPES: Readonly<Record<Quantisation, number>> = Object.freeze({
  F32: 0,
  F16: 1,
  Q8_0: 7,
  Q4_K: 15,
  BF16: 32,
});

export interface TypedTensor {
  /** Undefined for what no model is loaded with: the divisors of rotary frequencies. */
  readonly role?: WeightRole;
  /** Undefined outside the layers. */
  readonly layer?: number;
  /** Outermost extent first. */
  readonly shape: readonly number[];
}

/** The type, and the one it stands in for where a row is no whole number of that one's blocks. */
export interface ChosenType {
  readonly type: WritableType;
  readonly wanted: WritableType;
}

/** What decides beside the tensor itself. */
export interface TypeOptions {
  readonly quantisation: Quantisation;
  readonly layers: number;
  readonly tiedEmbeddings: boolean;
}

/**
 * Vectors and gates stay F32: they are small, and experts are chosen by them. Of a Q4_K file the output
 * matrix, and values and down projections in about half of the layers, are Q6_K, as in llama.cpp's
 * Q4_K_M; so are here the up projections of latent attention, which every cached token goes through.
 */
export function chooseType(tensor: TypedTensor, options: TypeOptions): ChosenType {
  const wanted = wantedType(tensor, options);
  return { wanted, type: fitting(wanted, tensor.shape.at(-1) as number) };
}

function wantedType(
  { role, layer = 0, shape }: TypedTensor,
  { quantisation, layers, tiedEmbeddings }: TypeOptions,
): WritableType {
  if (shape.length < 2 || role === "moeGate") return "F32";
  if (quantisation !== "Q4_K") return quantisation;
  switch (role) {
    case "output":
    case "latentKey":
    case "latentValue":
      return "Q6_K";
    case "tokenEmbedding":
      return tiedEmbeddings ? "Q6_K" : "Q4_K";
    case "value":
    case "down":
    case "sharedDown":
    case "expertsDown":
      return getsMoreBits(layer, layers) ? "Q6_K" : "Q4_K";
    default:
      return "Q4_K";
  }
}

/** The first and the last eighth of the layers, and every third in between. */
function getsMoreBits(layer: number, layers: number): boolean {
  const eighth = Math.floor(layers / 8);
  return layer < eighth || layer >= Math.floor((7 * layers) / 8) || (layer - eighth) % 3 === 2;
}

/** The next more precise types, whose blocks are shorter. */
const SHORTER: Readonly<Partial<Record<WritableType, WritableType>>> = Object.freeze({
  Q4_K: "Q5_0",
  Q6_K: "Q8_0",
  Q5_0: "F16",
  Q8_0: "F16",
});

function fitting(type: WritableType, cols: number): WritableType {
  const shorter = SHORTER[type];
  if (shorter === undefined || cols % TENSOR_TYPES[type].blockValues === 0) return type;
  return fitting(shorter, cols);
}
