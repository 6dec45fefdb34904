/** Which of a checkpoint's tensors a stage of a pipeline holds. */

import type { DecoderConfig } from "../../model/decoder_config.ts";
import { layerOf, tensorName } from "../../model/names.ts";
import { partOf, type StagePlace } from "../tape/stage.ts";

/** Tells by a tensor's name whether this stage reads it. */
export function holds(
  { layers, tiedEmbeddings }: Pick<DecoderConfig, "layers" | "tiedEmbeddings">,
  { index, count }: StagePlace,
): (name: string) => boolean {
  const [from, to] = partOf(layers, { index, count });
  const embedding = tensorName("tokenEmbedding", { format: "safetensors" });
  const [isFirst, isLast] = [index === 0, index === count - 1];
  return (name) => {
    const layer = layerOf(name, "safetensors");
    if (layer !== undefined) return layer >= from && layer < to;
    if (name === embedding) return isFirst || (isLast && tiedEmbeddings);
    // The last norm and the output matrix.
    return isLast;
  };
}
