/**
 * The tensors of a GGUF file made of a Hugging Face checkpoint, by llama.cpp's names and in its
 * arrangement: experts stacked, the up projection of latent attention in two parts with the keys'
 * transposed, and, in Llama's files, rows of queries and keys so that rotated pairs are neighbours.
 */

import type { TensorData } from "../backend/backend.ts";
import type { LoadProgress } from "../engine/types.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { decoderMatch, decoderSpecs } from "../model/decoder.ts";
import type { DecoderConfig } from "../model/decoder_config.ts";
import { expertTensors } from "../model/expert_tensors.ts";
import { splitLatentUp, type UpProjections } from "../model/latent_attention.ts";
import { ROPE_FACTORS_NAME, tensorName } from "../model/names.ts";
import { rowwise } from "../model/tensor_data.ts";
import { StoredWeights, type WeightSpec } from "../model/weights.ts";
import { rowBytes } from "../quant/types.ts";
import type { TypedTensor } from "./types.ts";

/** A tensor of the new file. */
export interface ConvertedTensor extends TypedTensor {
  readonly name: string;
  /** One after the other they are its values, each of whole rows. */
  readonly parts: readonly TensorData[];
}

/** The tensors in the order in which a step reads them. Throws FormatError for wrong weights. */
export function convertedTensors(
  source: TensorSource,
  { config, onProgress }: { config: DecoderConfig; onProgress?: LoadProgress },
): ConvertedTensor[] {
  const weights = new StoredWeights(source, {
    ...decoderMatch(config, source),
    ...(onProgress && { onProgress }),
  });
  const { attention, mixture } = config;
  const target: DecoderConfig = {
    ...config,
    ...(attention.kind === "latent" && { attention: { ...attention, split: true } }),
    ...(mixture && { mixture: { ...mixture, layout: "stacked" } }),
  };
  return decoderSpecs(target).map((spec) => {
    const { role, layer, shape } = spec;
    const name = tensorName(role, { format: "gguf", ...(layer !== undefined && { layer }) });
    const parts = partsOf(spec, { config, weights });
    return { role, ...(layer !== undefined && { layer }), name, shape, parts };
  });
}

function partsOf(
  { role, layer = 0 }: WeightSpec,
  { config, weights }: { config: DecoderConfig; weights: StoredWeights },
): readonly TensorData[] {
  const { attention, mixture, hiddenSize } = config;
  const experts = () => expertTensors(mixture!, { layer, hiddenSize, loader: weights });
  switch (role) {
    case "latentKey":
      return [upProjections(config, { layer, weights }).key];
    case "latentValue":
      return [upProjections(config, { layer, weights }).value];
    case "expertsGate":
      return experts().gate;
    case "expertsUp":
      return experts().up;
    case "expertsDown":
      return experts().down;
    case "query":
    case "queryBias":
    case "key":
    case "keyBias": {
      const stored = weights.tensor(role, { layer });
      const paired = attention.kind === "grouped" && config.architecture === "llama";
      return [paired ? neighbours(stored, attention.headDim) : stored];
    }
    default:
      return [weights.tensor(role, { layer })];
  }
}

function upProjections(
  { attention }: DecoderConfig,
  { layer, weights }: { layer: number; weights: StoredWeights },
): UpProjections {
  if (attention.kind !== "latent") throw new Error("the attention has no latents");
  const both = weights.tensor("latentUp", { layer });
  return splitLatentUp(both, { config: attention, otherwise: "F32" });
}

/** Rows, or a bias's values, in which the two halves of each head take turns. */
function neighbours(tensor: TensorData, headDim: number): TensorData {
  const { name, type } = tensor;
  const isBias = tensor.rows === 1;
  const [rows, cols] = isBias ? [tensor.cols, 1] : [tensor.rows, tensor.cols];
  const bytes = rowBytes(type, cols);
  return rowwise({ name, type, rows, cols }, {
    rowsAtOnce: headDim,
    async fill(row, out) {
      const from = new Uint8Array(out.length);
      await tensor.read(row * bytes, from);
      for (let to = 0; to < headDim; to++) {
        const at = (to % 2) * (headDim / 2) + Math.floor(to / 2);
        out.set(from.subarray(at * bytes, (at + 1) * bytes), to * bytes);
      }
    },
  });
}

/** Divisors of the rotary frequencies, one a pair, as a tensor: GGUF's form of Llama 3's scaling. */
export function ropeFactorsTensor(factors: Float32Array): ConvertedTensor {
  const bytes = new Uint8Array(factors.buffer, factors.byteOffset, factors.byteLength);
  const shape = [factors.length];
  const data: TensorData = {
    name: ROPE_FACTORS_NAME,
    type: "F32",
    rows: 1,
    cols: factors.length,
    read(offset, into) {
      into.set(bytes.subarray(offset, offset + into.length));
      return Promise.resolve();
    },
  };
  return { name: ROPE_FACTORS_NAME, shape, parts: [data] };
}
