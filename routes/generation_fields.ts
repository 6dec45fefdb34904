/** The fields that chat and text completions share, from wire names to ours. */

import type { GenerateRequest } from "../src/engine/types.ts";
import { RequestError } from "../src/errors.ts";
import { noRoutedExperts } from "../src/engine/request.ts";
import type { SamplingParams } from "../src/sampling/types.ts";
import type { TextModel } from "../src/text/types.ts";
import { type CallerFields, readCallerFields } from "./caller.ts";
import { fieldError, type Fields } from "./fields.ts";

export const MAX_STOP_STRINGS = 16;
export const MAX_STOP_LENGTH = 1_000;
export const MAX_CHOICES = 128;
export const MAX_LOGIT_BIASES = 1_024;
export const MAX_TOP_LOGPROBS = 20;
/** Larger than any context; the context length has its own check. */
const MAX_TOKENS = 2 ** 31;

export interface GenerationFields {
  readonly sampling: SamplingParams;
  readonly stop: readonly string[];
  readonly n: number;
  readonly stream: boolean;
  /** A last chunk of a stream has the usage. */
  readonly includeUsage: boolean;
  /** Every chunk has the usage so far. */
  readonly usageSoFar: boolean;
  readonly caller: CallerFields;
  readonly ignoreEos: boolean;
  readonly routedExperts: GenerateRequest["routedExperts"];
}

/** What reading a request needs to know of the model. */
export interface ModelFacts {
  readonly vocabSize: number;
  /** It has routed experts. */
  readonly routes: boolean;
  /** What holds where a request says nothing. */
  readonly defaultSampling: Partial<SamplingParams>;
}

export function factsOf({ info, defaultSampling }: TextModel): ModelFacts {
  const { vocabSize, routedLayers } = info;
  return { vocabSize, routes: routedLayers.length > 0, defaultSampling };
}

function readStop(fields: Fields): string[] {
  const value = fields.raw("stop");
  if (value === undefined) return [];
  const strings = typeof value === "string" ? [value] : value;
  const must =
    `a string or a list of at most ${MAX_STOP_STRINGS} strings of 1 to ${MAX_STOP_LENGTH} characters`;
  if (!Array.isArray(strings) || strings.length > MAX_STOP_STRINGS) {
    throw fieldError("stop", value, must);
  }
  for (const [i, string] of strings.entries()) {
    if (typeof string !== "string" || string === "" || string.length > MAX_STOP_LENGTH) {
      throw fieldError(typeof value === "string" ? "stop" : `stop[${i}]`, string, must);
    }
  }
  return strings;
}

function readLogitBias(fields: Fields, vocabSize: number): [number, number][] {
  const bias = fields.object("logit_bias");
  if (bias === undefined) return [];
  const names = bias.names();
  if (names.length > MAX_LOGIT_BIASES) {
    throw fieldError("logit_bias", names.length, `at most ${MAX_LOGIT_BIASES} entries`);
  }
  return names.map((name) => {
    const token = /^\d{1,9}$/.test(name) ? Number(name) : NaN;
    if (!(token < vocabSize)) {
      throw new RequestError(
        `cannot read the request: logit_bias has the key ${JSON.stringify(name.slice(0, 40))}, ` +
          `must be a token id from 0 to ${vocabSize - 1}`,
        { param: "logit_bias" },
      );
    }
    const value = bias.number(name, { min: -100, max: 100 });
    return [token, value ?? 0];
  });
}

/** What holds where neither the request nor the model's file says anything: OpenAI's defaults. */
const OPENAI_SAMPLING = Object.freeze({
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
});

/** The request's own parameters, then what the model's makers recommend, then OpenAI's defaults. */
function readSampling(
  fields: Fields,
  { vocabSize, defaultSampling }: ModelFacts,
): SamplingParams {
  const fallback = { ...OPENAI_SAMPLING, ...defaultSampling };
  const topK = fields.integer("top_k", { min: -1, max: 2 ** 31 });
  return {
    temperature: fields.number("temperature", { min: 0, max: 2 }) ?? fallback.temperature,
    topK: topK === undefined ? fallback.topK : Math.max(topK, 0),
    topP: fields.number("top_p", { min: 0, max: 1 }) ?? fallback.topP,
    minP: fields.number("min_p", { min: 0, max: 1 }) ?? fallback.minP,
    repetitionPenalty: fields.number("repetition_penalty", { min: 0.01, max: 100 }) ??
      fallback.repetitionPenalty,
    presencePenalty: fields.number("presence_penalty", { min: -2, max: 2 }) ?? 0,
    frequencyPenalty: fields.number("frequency_penalty", { min: -2, max: 2 }) ?? 0,
    logitBias: readLogitBias(fields, vocabSize),
    seed: fields.integer("seed", {
      min: Number.MIN_SAFE_INTEGER,
      max: Number.MAX_SAFE_INTEGER,
    }),
  };
}

/** `return_routed_experts` for the answer's tokens; `return_prompt_routed_experts` adds the prompt's. */
function readRoutedExperts(fields: Fields, routes: boolean): GenerateRequest["routedExperts"] {
  const answer = fields.boolean("return_routed_experts") ?? false;
  const prompt = fields.boolean("return_prompt_routed_experts") ?? false;
  if (!answer && !prompt) return undefined;
  if (!routes) throw noRoutedExperts();
  return prompt ? "all" : "completion";
}

/** Reads what both kinds of completion take. Throws RequestError naming the first wrong field. */
export function readGenerationFields(fields: Fields, model: ModelFacts): GenerationFields {
  // Any model name is accepted: one model is served, and the answer says which.
  fields.string("model");
  const streamOptions = fields.object("stream_options");
  const includeUsage = streamOptions?.boolean("include_usage") ?? false;
  const usageSoFar = streamOptions?.boolean("continuous_usage_stats") ?? false;
  return {
    sampling: readSampling(fields, model),
    stop: readStop(fields),
    n: fields.integer("n", { min: 1, max: MAX_CHOICES }) ?? 1,
    stream: fields.boolean("stream") ?? false,
    includeUsage,
    // As in vLLM, where it says nothing by itself.
    usageSoFar: includeUsage && usageSoFar,
    caller: readCallerFields(fields),
    ignoreEos: fields.boolean("ignore_eos") ?? false,
    routedExperts: readRoutedExperts(fields, model.routes),
  };
}

/** `max_tokens`, or another name for it; undefined where neither is given. */
export function readMaxTokens(
  fields: Fields,
  { names, min }: { names: readonly string[]; min: number },
): number | undefined {
  let found: number | undefined;
  for (const name of names) {
    const value = fields.integer(name, { min, max: MAX_TOKENS });
    if (value === undefined) continue;
    if (found !== undefined && found !== value) {
      throw fieldError(name, value, `${found} like ${names[0]}, or left out`);
    }
    found = value;
  }
  return found;
}

/** Sampling for choice `i`: a seeded request gives each choice a seed of its own. */
export function samplingOfChoice(sampling: SamplingParams, i: number): SamplingParams {
  if (sampling.seed === undefined || i === 0) return sampling;
  const seed = sampling.seed + i;
  return { ...sampling, seed: Number.isSafeInteger(seed) ? seed : sampling.seed - i };
}
