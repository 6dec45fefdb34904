/**
 * Fields that other servers know, that would change the answer, and that this one cannot honour.
 * Each has values that ask for nothing; everything else is refused rather than ignored. Fields that
 * appear nowhere are taken as harmless and ignored.
 */

import { type Fields, unsupportedField } from "./fields.ts";

type Neutral = (value: NonNullable<unknown>) => boolean;

const never: Neutral = () => false;
const emptyList: Neutral = (value) => Array.isArray(value) && value.length === 0;
const emptyObject: Neutral = (value) =>
  typeof value === "object" && !Array.isArray(value) && Object.keys(value).length === 0;

function oneOf(...neutral: readonly (string | number | boolean)[]): Neutral {
  return (value) => neutral.some((other) => other === value);
}

function ofType(type: string): Neutral {
  return (value) => typeof value === "object" && (value as { type?: unknown }).type === type;
}

const NEUTRAL: Readonly<Record<string, Neutral>> = {
  // Tools and structure
  tools: emptyList,
  functions: emptyList,
  tool_choice: oneOf("none", "auto"),
  function_call: oneOf("none", "auto"),
  response_format: ofType("text"),
  structured_outputs: never,
  guided_json: never,
  guided_regex: never,
  guided_choice: never,
  guided_grammar: never,
  grammar: oneOf(""),
  json_schema: emptyObject,
  regex: never,
  ebnf: never,
  // Other kinds of input and output
  modalities: (value) => Array.isArray(value) && value.every((word) => word === "text"),
  audio: never,
  web_search_options: never,
  suffix: oneOf(""),
  // How much the model thinks, and with which template
  reasoning_effort: never,
  verbosity: oneOf("medium"),
  thinking: never,
  enable_thinking: never,
  chat_template: never,
  chat_template_kwargs: emptyObject,
  add_generation_prompt: oneOf(true),
  continue_final_message: oneOf(false),
  documents: emptyList,
  // Sampling that the engine does not know
  use_beam_search: oneOf(false),
  length_penalty: oneOf(1),
  typical_p: oneOf(1),
  tfs_z: oneOf(1),
  top_a: oneOf(0),
  mirostat: oneOf(0),
  mirostat_mode: oneOf(0),
  dry_multiplier: oneOf(0),
  xtc_probability: oneOf(0),
  dynatemp_range: oneOf(0),
  min_tokens: oneOf(0),
  stop_token_ids: emptyList,
  allowed_token_ids: never,
  bad_words: emptyList,
  include_stop_str_in_output: oneOf(false),
  skip_special_tokens: oneOf(true),
  truncate_prompt_tokens: never,
  prompt_logprobs: never,
  prompt_embeds: never,
};

/** Throws RequestError naming the first field that asks for something this server cannot do. */
export function refuseUnsupported(fields: Fields): void {
  for (const name of fields.names()) {
    if (!Object.hasOwn(NEUTRAL, name)) continue;
    const value = fields.raw(name);
    if (value !== undefined && !NEUTRAL[name](value)) throw unsupportedField(fields.path(name));
  }
}
