/** Reading the configuration of families whose attention is grouped: the part that they share. */

import type { TensorSource } from "../formats/tensor_source.ts";
import type { ConfigReader } from "./config_reader.ts";
import {
  type BaseConfig,
  type DecoderConfig,
  decoderConfig,
  readBase,
  refuseMxfp4,
  refuseWindow,
  type WindowSwitch,
} from "./decoder_config.ts";
import { type AttentionTraits, readGroupedAttention } from "./grouped_attention.ts";
import { readRope } from "./rope.ts";
import type { RopeConfig } from "./types.ts";

export interface GroupedTraits extends AttentionTraits {
  /** Pairs of a head that are rotated together in GGUF files; Hugging Face's are always halves. */
  readonly ggufPairing: RopeConfig["pairing"];
  readonly window: WindowSwitch;
}

type Rest = Partial<Omit<DecoderConfig, keyof BaseConfig | "attention" | "rope">>;

/** Reads a configuration; `rest` adds what the family has besides grouped attention. */
export function readGroupedDecoder(
  reader: ConfigReader,
  options: {
    source: TensorSource;
    traits: GroupedTraits;
    rest?: (base: BaseConfig) => Rest;
  },
): DecoderConfig {
  const { source, traits: { ggufPairing, window, ...traits }, rest } = options;
  const base = readBase(reader, source);
  const { hiddenSize, contextLength } = base;
  const attention = readGroupedAttention(reader, { hiddenSize, traits });
  refuseWindow(reader, { contextLength, by: window });
  refuseMxfp4(source);
  const pairing = source.format === "gguf" ? ggufPairing : "halves";
  const { headDim } = attention;
  const rope = readRope(reader, { headDim, contextLength, pairing });
  return decoderConfig(base, { attention, rope, ...rest?.(base) });
}
