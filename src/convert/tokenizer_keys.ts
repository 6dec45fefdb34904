/** The `tokenizer.ggml.*` keys of a Hugging Face folder's tokenizer, and its chat template. */

import { loadChatTemplate } from "../chat/mod.ts";
import { FormatError, UnsupportedOpError } from "../errors.ts";
import type { TensorSource } from "../formats/tensor_source.ts";
import { loadTokenizer } from "../tokenizer/mod.ts";
import {
  type NamedPreTokenizer,
  preTokenizerByName,
  preTokenizerName,
  preTokenizerOf,
} from "../tokenizer/pre_tokenizers.ts";
import { bool, i32s, type KeyValues, text, texts, u32 } from "./values.ts";

/** Values of `tokenizer.ggml.token_type`. */
const NORMAL = 1;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;

/** Tokens of this form control a model whatever their file says of them, as llama.cpp has it. */
const CONTROL_FORM = /^<(?:\|.*\||｜.*｜)>$/s;

/** What is taken of a tokenizer.json; the tokenizer's own reader has checked it. */
interface TokenizerJson {
  readonly model: {
    readonly vocab: Readonly<Record<string, number>>;
    readonly merges: readonly (string | readonly [string, string])[];
    readonly ignore_merges?: boolean;
  };
  readonly added_tokens?: readonly AddedTokenJson[];
  readonly pre_tokenizer: unknown;
  readonly normalizer?: unknown;
}

interface AddedTokenJson {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
  readonly single_word?: boolean;
}

export interface TokenizerKeys {
  readonly keys: KeyValues;
  /** What GGUF cannot say of this tokenizer, a sentence each. */
  readonly notices: readonly string[];
}

/** Throws FormatError for damaged documents, UnsupportedOpError for a tokenizer without a GGUF name. */
export async function tokenizerKeys(
  source: TensorSource,
  { vocabSize }: { vocabSize: number },
): Promise<TokenizerKeys> {
  const tokenizer = await loadTokenizer(source);
  const template = await loadChatTemplate(source, { tokenizer });
  const json: TokenizerJson = JSON.parse((await source.sidecar("tokenizer.json"))!);
  const action = "export the tokenizer";
  if (tokenizer.vocabSize > vocabSize) {
    throw FormatError.of(action, "its vocabulary", tokenizer.vocabSize, `at most ${vocabSize}`);
  }
  const pre = preTokenizerName(preTokenizerOf(json.pre_tokenizer, { action }));
  if (pre === undefined) {
    throw new UnsupportedOpError(
      'cannot export the tokenizer: its "pre_tokenizer" has no name in GGUF, must be one of a ' +
        "published family",
    );
  }
  const { tokens, types } = tokensOf(json, vocabSize);
  // A model without a BOS of its own may name one in its config.json, which the converter takes.
  const id = (value: number | null, name: string) => {
    const known = value ?? source.metadata.get(name);
    return typeof known === "number" ? u32(known) : undefined;
  };
  const { bosToken, eosToken, padToken, prefix } = tokenizer;
  const keys = {
    model: text("gpt2"),
    pre: text(pre),
    tokens: texts(tokens),
    token_type: i32s(types),
    merges: texts(json.model.merges.map((m) => typeof m === "string" ? m : m.join(" "))),
    bos_token_id: id(bosToken, "bos_token_id"),
    eos_token_id: id(eosToken, "eos_token_id"),
    padding_token_id: id(padToken, "pad_token_id"),
    add_bos_token: bool(bosToken !== null && prefix[0] === bosToken),
    add_eos_token: bool(false),
  };
  return {
    keys: {
      ...Object.fromEntries(
        Object.entries(keys).map(([key, value]) => [`tokenizer.ggml.${key}`, value]),
      ),
      "tokenizer.chat_template": template.isFallback ? undefined : text(template.source),
    },
    notices: noticesOf(json, preTokenizerByName(pre, { action })),
  };
}

/** Texts and types by id; ids that no token has become unused ones. */
function tokensOf(
  { model, added_tokens: added = [] }: TokenizerJson,
  count: number,
): { tokens: string[]; types: number[] } {
  const tokens = Array.from({ length: count }, (_, id) => `[PAD${id}]`);
  const types = new Array<number>(count).fill(UNUSED);
  for (const [token, id] of Object.entries(model.vocab)) {
    tokens[id] = token;
    types[id] = NORMAL;
  }
  for (const { id, content, special } of added) {
    tokens[id] = content;
    types[id] = special || CONTROL_FORM.test(content) ? CONTROL : USER_DEFINED;
  }
  return { tokens, types };
}

function noticesOf(
  { model, normalizer, added_tokens: added = [] }: TokenizerJson,
  { ignoreMerges }: NamedPreTokenizer,
): string[] {
  const notices: string[] = [];
  if (ignoreMerges !== (model.ignore_merges === true)) {
    const is = ignoreMerges ? "a word that is a token stays whole" : "every word is merged";
    notices.push(`GGUF has its own word on "ignore_merges" of this tokenizer: ${is}`);
  }
  if (normalizer !== null && normalizer !== undefined) {
    notices.push("GGUF has no normaliser: text is tokenised as it is, not in NFC");
  }
  const strict = added.filter(({ lstrip, rstrip, single_word: word }) => lstrip || rstrip || word);
  if (strict.length > 0) {
    const shown = strict.slice(0, 3).map(({ content }) => JSON.stringify(content)).join(", ");
    notices.push(`GGUF cannot say that tokens strip spaces or stand alone, as ${shown} do`);
  }
  return notices;
}
