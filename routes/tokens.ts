/**
 * Tokenizer routes for evaluation harnesses (lm-eval's remote tokenizer): `/tokenizer_info`,
 * `/tokenize` and `/detokenize`.
 */

import type { Context } from "hono";
import { readJsonObject } from "./body.ts";
import { fieldError, Fields } from "./fields.ts";
import type { Serving } from "./serving.ts";

interface RouteOptions {
  readonly serving: Serving;
}

export function tokenizerInfo(context: Context, { serving }: RouteOptions): Response {
  const { bosToken, eosToken, padToken, chatTemplate } = serving.model().tokenizerFacts;
  return context.json({
    bos_token: bosToken,
    eos_token: eosToken,
    pad_token: padToken,
    chat_template: chatTemplate,
  });
}

/** Control tokens are read as such here, since the ids are only looked at, and sent on knowingly. */
export async function tokenize(context: Context, { serving }: RouteOptions): Promise<Response> {
  const model = serving.model();
  const fields = new Fields(await readJsonObject(context.req.raw, serving.maxBodyBytes));
  const prompt = fields.string("prompt");
  if (prompt === undefined) throw fieldError("prompt", null, "a string");
  const tokens = await model.encode(prompt, {
    addSpecial: fields.boolean("add_special_tokens") ?? true,
    parseSpecial: fields.boolean("parse_special") ?? true,
  });
  return context.json({
    tokens,
    count: tokens.length,
    max_model_len: model.info.contextLength,
  });
}

export async function detokenize(context: Context, { serving }: RouteOptions): Promise<Response> {
  const model = serving.model();
  const fields = new Fields(await readJsonObject(context.req.raw, serving.maxBodyBytes));
  const tokens = fields.list("tokens");
  const last = model.info.vocabSize - 1;
  if (tokens === undefined) throw fieldError("tokens", null, "a list of token ids");
  for (const [i, token] of tokens.entries()) {
    if (!Number.isInteger(token) || (token as number) < 0 || (token as number) > last) {
      throw fieldError(`tokens[${i}]`, token, `a token id from 0 to ${last}`);
    }
  }
  return context.json({ prompt: model.decode(tokens as number[]) });
}
