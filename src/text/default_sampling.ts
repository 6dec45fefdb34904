/**
 * How a model's makers say that it should be sampled: `general.sampling.*` of a GGUF file (the keys that
 * llama.cpp writes and reads), generation_config.json of a Hugging Face folder (of which, as in vLLM,
 * the sampling parameters count and `do_sample` does not).
 */

import { FormatError } from "../errors.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import type { SamplingParams } from "../sampling/types.ts";

interface DefaultField {
  readonly field: "temperature" | "topK" | "topP" | "minP" | "repetitionPenalty";
  readonly gguf: string;
  readonly huggingFace: string;
  readonly min: number;
  readonly max: number;
  readonly whole?: boolean;
}

const FIELDS: readonly DefaultField[] = Object.freeze([
  { field: "temperature", gguf: "temp", huggingFace: "temperature", min: 0, max: 100 },
  { field: "topK", gguf: "top_k", huggingFace: "top_k", min: -1, max: 2 ** 31, whole: true },
  { field: "topP", gguf: "top_p", huggingFace: "top_p", min: 0, max: 1 },
  { field: "minP", gguf: "min_p", huggingFace: "min_p", min: 0, max: 1 },
  {
    field: "repetitionPenalty",
    gguf: "penalty_repeat",
    huggingFace: "repetition_penalty",
    min: 0.01,
    max: 100,
  },
]);

/** The parameters that the checkpoint names. Throws FormatError for values that cannot be. */
export async function readDefaultSampling(
  source: Pick<TensorSource, "format" | "name" | "metadata" | "sidecar">,
): Promise<Partial<SamplingParams>> {
  const gguf = source.format === "gguf";
  const config = gguf ? null : await generationConfig(source);
  const given: Partial<Record<DefaultField["field"], number>> = {};
  for (const { field, min, max, whole, ...names } of FIELDS) {
    const name = gguf ? `general.sampling.${names.gguf}` : names.huggingFace;
    const value = gguf ? source.metadata.get(name) : config?.[name];
    if (value === undefined || value === null) continue;
    const right = typeof value === "number" && value >= min && value <= max &&
      (!whole || Number.isInteger(value));
    if (!right) {
      throw FormatError.of(
        `read the sampling defaults of ${JSON.stringify(source.name)}`,
        name,
        typeof value === "number" ? value : `a ${typeof value}`,
        `a ${whole ? "whole " : ""}number from ${min} to ${max}`,
      );
    }
    given[field] = value;
  }
  // -1 and 0 both keep all.
  return given.topK === -1 ? { ...given, topK: 0 } : given;
}

async function generationConfig(
  source: Pick<TensorSource, "name" | "sidecar">,
): Promise<Readonly<Record<string, unknown>> | null> {
  const text = await source.sidecar("generation_config.json");
  if (text === null) return null;
  const refuse = (is: string) =>
    FormatError.of(
      `read the sampling defaults of ${JSON.stringify(source.name)}`,
      "generation_config.json",
      is,
      "a JSON object",
    );
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw refuse("no JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw refuse("something else");
  }
  return value as Record<string, unknown>;
}
