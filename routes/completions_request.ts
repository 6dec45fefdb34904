/** `POST /v1/completions`: from the wire to prompts and their options. */

import { fieldError, Fields, unsupportedField } from "./fields.ts";
import {
  type GenerationFields,
  type ModelFacts,
  readGenerationFields,
  readMaxTokens,
} from "./generation_fields.ts";
import { refuseUnsupported } from "./unsupported.ts";

export interface CompletionsRequest extends GenerationFields {
  readonly prompts: readonly (string | readonly number[])[];
  readonly maxTokens: number;
  /** Undefined: no log-probabilities. */
  readonly topLogprobs: number | undefined;
  readonly echo: boolean;
  readonly addSpecial: boolean;
  readonly parseSpecial: boolean;
}

export const MAX_PROMPTS = 1_024;
/** Choices of all prompts together. */
export const MAX_COMPLETIONS = 2_048;
export const MAX_COMPLETION_LOGPROBS = 20;
/** OpenAI's default for text completions. */
const DEFAULT_MAX_TOKENS = 16;

function isTokenList(value: unknown, vocabSize: number): value is number[] {
  return Array.isArray(value) && value.length > 0 &&
    value.every((id) => Number.isInteger(id) && id >= 0 && id < vocabSize);
}

function readPrompts(fields: Fields, vocabSize: number): (string | readonly number[])[] {
  const value = fields.raw("prompt");
  if (typeof value === "string") return [value];
  const must = `a string, a list of token ids from 0 to ${vocabSize - 1}, or a list of at most ` +
    `${MAX_PROMPTS} of either`;
  if (!Array.isArray(value) || value.length === 0) throw fieldError("prompt", value ?? null, must);
  if (typeof value[0] === "number") {
    const wrong = value.findIndex((id) => !isTokenList([id], vocabSize));
    if (wrong >= 0) throw fieldError(`prompt[${wrong}]`, value[wrong], must);
    return [value];
  }
  if (value.length > MAX_PROMPTS) throw fieldError("prompt", value, must);
  for (const [i, prompt] of value.entries()) {
    if (typeof prompt !== "string" && !isTokenList(prompt, vocabSize)) {
      throw fieldError(`prompt[${i}]`, prompt, must);
    }
  }
  return value;
}

/** Throws RequestError naming the field that is wrong or not supported. */
export function readCompletionsRequest(
  body: Readonly<Record<string, unknown>>,
  model: ModelFacts,
): CompletionsRequest {
  const fields = new Fields(body);
  const prompts = readPrompts(fields, model.vocabSize);
  const generation = readGenerationFields(fields, model);
  const { n } = generation;
  if (prompts.length * n > MAX_COMPLETIONS) {
    throw fieldError("n", n, `at most ${MAX_COMPLETIONS} choices with ${prompts.length} prompts`);
  }
  const bestOf = fields.integer("best_of", { min: 1, max: 128 });
  if (bestOf !== undefined && bestOf < n) throw fieldError("best_of", bestOf, `at least n (${n})`);
  if (bestOf !== undefined && bestOf > n) {
    throw unsupportedField("best_of", "only the value of n is");
  }
  refuseUnsupported(fields);
  return {
    ...generation,
    prompts,
    maxTokens: readMaxTokens(fields, { names: ["max_tokens"], min: 0 }) ?? DEFAULT_MAX_TOKENS,
    topLogprobs: fields.integer("logprobs", { min: 0, max: MAX_COMPLETION_LOGPROBS }),
    echo: fields.boolean("echo") ?? false,
    addSpecial: fields.boolean("add_special_tokens") ?? true,
    parseSpecial: fields.boolean("parse_special") ?? false,
  };
}
