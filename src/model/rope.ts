/**
 * Rotary position embedding (Su et al. 2021): which frequencies a checkpoint asks for, with plain,
 * linear, Llama 3 and YaRN scaling, and the cosines and sines of a step. The formulas are those of
 * Hugging Face's `rope_type`s; GGUF files state the same ones in other words, except that Llama 3's
 * are stored as ready divisors in the tensor `rope_freqs.weight`.
 */

import { FormatError, UnsupportedOpError } from "../errors.ts";
import type { ConfigKey, ConfigReader, ConfigSection } from "./config_reader.ts";
import type { RopeConfig } from "./types.ts";

/** How the plain frequencies theta^(-2i/dim) are changed for contexts longer than trained on. */
export type RopeScaling =
  | { readonly type: "none" }
  | { readonly type: "linear"; readonly factor: number }
  | {
    readonly type: "llama3";
    readonly factor: number;
    readonly lowFrequencyFactor: number;
    readonly highFrequencyFactor: number;
    readonly originalContext: number;
  }
  | {
    readonly type: "yarn";
    readonly factor: number;
    readonly originalContext: number;
    readonly betaFast: number;
    readonly betaSlow: number;
    /** Whether the ramp's ends are rounded to whole pairs. */
    readonly truncate: boolean;
    /** Factor on cosines and sines; undefined: from `mscale` and `mscaleAllDim`. */
    readonly attentionFactor?: number;
    readonly mscale: number;
    readonly mscaleAllDim: number;
  };

const FACTOR = { above: 0, max: 1e6 } as const;
const CONTEXT = { min: 1, max: 2 ** 30 } as const;
const THETA = { above: 0, max: 1e15 } as const;
const ACTION = "read the model's configuration";

/** Frequencies of a rotary embedding over `dim` values, without a pairing. */
export function ropeFrequencies(
  options: { dim: number; theta: number; scaling: RopeScaling },
): Pick<RopeConfig, "inverseFrequencies" | "cosSinScale"> {
  const { dim, theta, scaling } = options;
  const plain = Array.from({ length: dim / 2 }, (_, i) => theta ** (-2 * i / dim));
  switch (scaling.type) {
    case "none":
      return { inverseFrequencies: Float32Array.from(plain), cosSinScale: 1 };
    case "linear":
      return {
        inverseFrequencies: Float32Array.from(plain, (f) => f / scaling.factor),
        cosSinScale: 1,
      };
    case "llama3":
      return {
        inverseFrequencies: Float32Array.from(plain, (f) => llama3Frequency(f, scaling)),
        cosSinScale: 1,
      };
    case "yarn":
      return {
        inverseFrequencies: yarnFrequencies(plain, { dim, theta, scaling }),
        cosSinScale: yarnAttentionFactor(scaling),
      };
  }
}

/** Long waves are slowed by the factor, short ones kept, those between blended by wavelength. */
function llama3Frequency(
  frequency: number,
  scaling: Extract<RopeScaling, { type: "llama3" }>,
): number {
  const { factor, lowFrequencyFactor, highFrequencyFactor, originalContext } = scaling;
  const wavesInContext = originalContext * frequency / (2 * Math.PI);
  if (wavesInContext < lowFrequencyFactor) return frequency / factor;
  if (wavesInContext > highFrequencyFactor) return frequency;
  const smooth = (wavesInContext - lowFrequencyFactor) / (highFrequencyFactor - lowFrequencyFactor);
  return (1 - smooth) * frequency / factor + smooth * frequency;
}

/** YaRN (Peng et al. 2023): pairs below the ramp are kept, above it divided by the factor. */
function yarnFrequencies(
  plain: readonly number[],
  options: { dim: number; theta: number; scaling: Extract<RopeScaling, { type: "yarn" }> },
): Float32Array {
  const { dim, theta, scaling } = options;
  const { factor, originalContext, betaFast, betaSlow, truncate } = scaling;
  // The pair (as a real number) that turns `rotations` times within the original context.
  const pairOf = (rotations: number) =>
    dim * Math.log(originalContext / (rotations * 2 * Math.PI)) / (2 * Math.log(theta));
  const low = Math.max(truncate ? Math.floor(pairOf(betaFast)) : pairOf(betaFast), 0);
  const end = Math.min(truncate ? Math.ceil(pairOf(betaSlow)) : pairOf(betaSlow), dim - 1);
  // An empty ramp becomes a steep one, as the reference has it.
  const high = low === end ? end + 0.001 : end;
  return Float32Array.from(plain, (frequency, pair) => {
    const ramp = Math.min(Math.max((pair - low) / (high - low), 0), 1);
    return frequency / factor * ramp + frequency * (1 - ramp);
  });
}

/** YaRN's factor on cosines and sines. */
export function yarnAttentionFactor(scaling: Extract<RopeScaling, { type: "yarn" }>): number {
  const { factor, attentionFactor, mscale, mscaleAllDim } = scaling;
  if (attentionFactor !== undefined) return attentionFactor;
  if (mscale !== 0 && mscaleAllDim !== 0) {
    return yarnMscale(factor, mscale) / yarnMscale(factor, mscaleAllDim);
  }
  return yarnMscale(factor, 1);
}

/** YaRN's temperature correction for a context stretched by `factor`. */
export function yarnMscale(factor: number, mscale: number): number {
  return factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
}

/**
 * Reads theta and scaling of a checkpoint. GGUF's frequency divisors are a tensor and not part of
 * this; `applyFrequencyFactors` folds them in when the weights are loaded.
 */
export function readRope(
  reader: ConfigReader,
  options: {
    headDim: number;
    contextLength: number;
    pairing: RopeConfig["pairing"];
    /** Whether YaRN's ramp is rounded in GGUF files, which cannot say so; true by default. */
    ggufTruncate?: boolean;
  },
): RopeConfig {
  const { headDim, contextLength, pairing, ggufTruncate = true } = options;
  const { theta, dim, scaling } = reader.format === "gguf"
    ? readGgufRope(reader, { headDim, contextLength, truncate: ggufTruncate })
    : readRopeParameters(reader, { headDim, contextLength });
  if (dim % 2 !== 0) {
    throw FormatError.of(ACTION, "the number of rotated values of a head", dim, "even");
  }
  return { dim, pairing, ...ropeFrequencies({ dim, theta, scaling }) };
}

/** What frequencies are computed from. */
export interface RopeParameters {
  readonly theta: number;
  readonly dim: number;
  readonly scaling: RopeScaling;
}

function readGgufRope(
  reader: ConfigReader,
  options: { headDim: number; contextLength: number; truncate: boolean },
): RopeParameters {
  const { headDim, contextLength, truncate } = options;
  const key = ggufKey;
  const theta = reader.number(key("rope.freq_base"), { ...THETA, fallback: 10000 });
  const dim = reader.integer(key("rope.dimension_count"), {
    min: 2,
    max: headDim,
    fallback: headDim,
  });
  const legacyFactor = reader.number(key("rope.scale_linear"), { ...FACTOR, fallback: 1 });
  const type = reader.text(key("rope.scaling.type"), {
    fallback: legacyFactor === 1 ? "none" : "linear",
  });
  const factor = () =>
    reader.number(key("rope.scaling.factor"), { ...FACTOR, fallback: legacyFactor });
  switch (type) {
    case "none":
      return { theta, dim, scaling: { type: "none" } };
    case "linear":
      return { theta, dim, scaling: { type: "linear", factor: factor() } };
    case "yarn": {
      const scaling = {
        type: "yarn",
        factor: factor(),
        originalContext: reader.integer(key("rope.scaling.original_context_length"), {
          ...CONTEXT,
          fallback: contextLength,
        }),
        betaFast: reader.number(key("rope.scaling.yarn_beta_fast"), { ...FACTOR, fallback: 32 }),
        betaSlow: reader.number(key("rope.scaling.yarn_beta_slow"), { ...FACTOR, fallback: 1 }),
        truncate,
        mscale: 0,
        mscaleAllDim: 0,
      } as const;
      // GGUF's attention factor comes on top of YaRN's own, not in its place. Where the scores have a
      // temperature of their own, mscale and mscale_all_dim are equal and leave cosines as they are.
      const extra = reader.number(key("rope.scaling.attn_factor"), { ...FACTOR, fallback: 1 });
      const own = readLogMultiplier(reader) === 0 ? yarnMscale(scaling.factor, 1) : 1;
      return { theta, dim, scaling: { ...scaling, attentionFactor: extra * own } };
    }
    default:
      throw unsupportedScaling(reader.label(key("rope.scaling.type")), type);
  }
}

function ggufKey(gguf: string): ConfigKey {
  return { gguf, huggingFace: gguf };
}

/** A tenth of `mscale_all_dim`; 0 where the file has none. */
function readLogMultiplier(reader: ConfigReader): number {
  const key = ggufKey("rope.scaling.yarn_log_multiplier");
  return reader.number(key, { above: -1e-300, max: 100, fallback: 0 });
}

/**
 * DeepSeek's part of YaRN: the square of this is a factor on attention's scores (DeepSeek-V2, section
 * 3.1.4). 1 without YaRN, and where `mscale_all_dim` is absent or 0.
 */
export function readYarnTemperature(reader: ConfigReader): number {
  if (reader.format === "gguf") {
    if (reader.text(ggufKey("rope.scaling.type"), { fallback: "none" }) !== "yarn") return 1;
    const factor = reader.number(ggufKey("rope.scaling.factor"), { ...FACTOR, fallback: 1 });
    return yarnMscale(factor, 10 * readLogMultiplier(reader));
  }
  const section = reader.section("rope_parameters") ?? reader.section("rope_scaling");
  const scaling = section && readScaling(section, { contextLength: 1 });
  return scaling?.type === "yarn" ? yarnMscale(scaling.factor, scaling.mscaleAllDim) : 1;
}

/** Reads theta and scaling of a config.json. */
export function readRopeParameters(
  reader: ConfigReader,
  { headDim, contextLength }: { headDim: number; contextLength: number },
): RopeParameters {
  // Since transformers 5 both theta and scaling are in `rope_parameters`.
  const parameters = reader.section("rope_parameters");
  const section = parameters ?? reader.section("rope_scaling");
  const theta = parameters?.has("rope_theta")
    ? parameters.number("rope_theta", THETA)
    : reader.number({ gguf: "", huggingFace: "rope_theta" }, { ...THETA, fallback: 10000 });
  const share = { above: 0, max: 1, fallback: 1 } as const;
  const rotated = parameters?.has("partial_rotary_factor")
    ? parameters.number("partial_rotary_factor", share)
    : reader.number({ gguf: "", huggingFace: "partial_rotary_factor" }, share);
  const dim = Math.floor(headDim * rotated);
  if (dim < 2) throw FormatError.of(ACTION, '"partial_rotary_factor"', rotated, "larger");
  const scaling: RopeScaling = section === undefined
    ? { type: "none" }
    : readScaling(section, { contextLength });
  return { theta, dim, scaling };
}

/** Reads a `rope_scaling` or `rope_parameters` object of config.json. */
export function readScaling(
  section: ConfigSection,
  { contextLength }: { contextLength: number },
): RopeScaling {
  const type = section.text("rope_type", {
    fallback: section.text("type", { fallback: "default" }),
  });
  const original = { ...CONTEXT, fallback: contextLength };
  switch (type) {
    case "default":
      return { type: "none" };
    case "linear":
      return { type: "linear", factor: section.number("factor", FACTOR) };
    case "llama3": {
      const lowFrequencyFactor = section.number("low_freq_factor", FACTOR);
      return {
        type: "llama3",
        factor: section.number("factor", FACTOR),
        lowFrequencyFactor,
        highFrequencyFactor: section.number("high_freq_factor", {
          above: lowFrequencyFactor,
          max: FACTOR.max,
        }),
        originalContext: section.integer("original_max_position_embeddings", original),
      };
    }
    case "yarn": {
      const attentionFactor = section.has("attention_factor")
        ? { attentionFactor: section.number("attention_factor", FACTOR) }
        : {};
      const mscale = { above: -1e-300, max: 100, fallback: 0 };
      return {
        type: "yarn",
        factor: section.number("factor", FACTOR),
        originalContext: section.integer("original_max_position_embeddings", original),
        betaFast: section.number("beta_fast", { ...FACTOR, fallback: 32 }),
        betaSlow: section.number("beta_slow", { ...FACTOR, fallback: 1 }),
        truncate: section.boolean("truncate", { fallback: true }),
        mscale: section.number("mscale", mscale),
        mscaleAllDim: section.number("mscale_all_dim", mscale),
        ...attentionFactor,
      };
    }
    default:
      throw unsupportedScaling("rope_type", type);
  }
}

function unsupportedScaling(label: string, type: string): UnsupportedOpError {
  return new UnsupportedOpError(
    `cannot use rotary scaling: ${label} is ${JSON.stringify(type.slice(0, 40))}, ` +
      "must be none, linear, llama3 or yarn",
  );
}

/** Divides the frequencies by `factors` (GGUF's `rope_freqs.weight`, one per pair). */
export function applyFrequencyFactors(rope: RopeConfig, factors: Float32Array): RopeConfig {
  const pairs = rope.dim / 2;
  if (factors.length !== pairs) {
    throw FormatError.of(
      "load rotary frequencies",
      "rope_freqs.weight's length",
      factors.length,
      `${pairs}`,
    );
  }
  const bad = factors.findIndex((factor) => !(factor > 0 && factor < Infinity));
  if (bad >= 0) {
    throw FormatError.of(
      "load rotary frequencies",
      `element ${bad} of rope_freqs.weight`,
      factors[bad],
      "positive and finite",
    );
  }
  return { ...rope, inverseFrequencies: rope.inverseFrequencies.map((f, i) => f / factors[i]) };
}

/**
 * Writes the cosines, then the sines of each position: `out` is [positions, dim]. The angle is rounded
 * to float32 before the cosine is taken, as the implementations do that models are trained with.
 */
export function fillCosSin(
  rope: RopeConfig,
  options: { positions: ArrayLike<number>; out: Float32Array },
): void {
  const { positions, out } = options;
  const pairs = rope.dim / 2;
  for (let row = 0; row < positions.length; row++) {
    const base = row * rope.dim;
    for (let i = 0; i < pairs; i++) {
      const angle = Math.fround(positions[row] * rope.inverseFrequencies[i]);
      out[base + i] = Math.cos(angle) * rope.cosSinScale;
      out[base + pairs + i] = Math.sin(angle) * rope.cosSinScale;
    }
  }
}
