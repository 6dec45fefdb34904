/** Tokenizers of Hugging Face folders: tokenizer.json with the settings beside it. */

import { FormatError } from "../errors.ts";
import type { AddedToken } from "./added_tokens.ts";
import { writeAlphabetBytes } from "./byte_alphabet.ts";
import { MergeReader } from "./merge_reader.ts";
import { preTokenizerOf } from "./pre_tokenizers.ts";
import { endTokens } from "./special_texts.ts";
import { Tokenizer } from "./tokenizer.ts";
import { type Vocabulary, VocabularyBuilder } from "./vocabulary.ts";

/** The documents' texts; all but the first may be missing. */
export interface TokenizerDocuments {
  readonly tokenizer: string;
  readonly tokenizerConfig?: string | null;
  readonly generationConfig?: string | null;
  readonly specialTokensMap?: string | null;
}

/** Ids must stay below this; published vocabularies stay below 2^18. */
const MAX_TOKENS = 2 ** 20;

type Json = Readonly<Record<string, unknown>>;

/**
 * Reads a byte-level BPE tokenizer; `name` is the folder's, for messages. FormatError where a
 * document is damaged, inconsistent, or asks for something that is not supported.
 */
export function tokenizerFromHuggingFace(
  documents: TokenizerDocuments,
  options: { name: string },
): Tokenizer {
  return new HuggingFaceReader(options.name).read(documents);
}

class HuggingFaceReader {
  readonly #action: string;

  constructor(name: string) {
    this.#action = `read the tokenizer of ${JSON.stringify(name)}`;
  }

  read(documents: TokenizerDocuments): Tokenizer {
    const action = this.#action;
    const json = this.#parse("tokenizer.json", documents.tokenizer);
    const config = this.#optional("tokenizer_config.json", documents.tokenizerConfig);
    const map = this.#optional("special_tokens_map.json", documents.specialTokensMap);
    const generation = this.#optional("generation_config.json", documents.generationConfig);
    const model = this.#model(json);
    const added = this.#readAddedTokens(json.added_tokens);
    const vocabulary = this.#readVocabulary(this.#object(model.vocab, "model.vocab"), added);
    const merges = this.#readMerges(model.merges, vocabulary);
    this.#checkDecoder(json.decoder);
    const template = this.#readTemplate(json.post_processor, vocabulary.size);
    const tokenId = (key: string, rule: { mayBeUnknown: boolean } = { mayBeUnknown: false }) =>
      this.#tokenId(key, { config, map, added, ...rule });
    const bosToken = tokenId("bos_token");
    const eosToken = tokenId("eos_token");
    return new Tokenizer({
      action,
      vocabulary,
      merges,
      scanners: preTokenizerOf(json.pre_tokenizer, { action }),
      normalizer: this.#readNormalizer(json.normalizer),
      addedTokens: added,
      ignoreMerges: model.ignore_merges === true,
      prefix: this.#ends("add_bos_token", { config, id: bosToken, template: template.prefix }),
      suffix: this.#ends("add_eos_token", { config, id: eosToken, template: template.suffix }),
      bosToken,
      eosToken,
      padToken: tokenId("pad_token", { mayBeUnknown: true }),
      eosTokens: endTokens(
        [eosToken, ...this.#generationEnds(generation, vocabulary.size)],
        added,
      ),
    });
  }

  #model(json: Json): Json {
    const model = this.#object(json.model, "model");
    const wrong = (key: string, must: string) =>
      this.#error(`model.${key}`, JSON.stringify(model[key]), must);
    if (model.type !== "BPE") throw wrong("type", '"BPE"');
    if (model.byte_fallback === true) throw wrong("byte_fallback", "false");
    if (model.dropout) throw wrong("dropout", "null");
    if (model.continuing_subword_prefix) throw wrong("continuing_subword_prefix", "empty");
    if (model.end_of_word_suffix) throw wrong("end_of_word_suffix", "empty");
    return model;
  }

  #readAddedTokens(value: unknown): AddedToken[] {
    const ids = new Set<number>();
    const tokens = this.#list(value ?? [], "added_tokens").map((entry, index): AddedToken => {
      const what = `added_tokens[${index}]`;
      const token = this.#object(entry, what);
      const flag = (key: string) => {
        const flag = token[key] ?? false;
        if (typeof flag !== "boolean") {
          throw this.#error(`${what}.${key}`, JSON.stringify(flag), "a boolean");
        }
        return flag;
      };
      if (typeof token.content !== "string") {
        throw this.#error(`${what}.content`, JSON.stringify(token.content), "a string");
      }
      const id = this.#id(token.id, { what: `${what}.id`, size: MAX_TOKENS });
      if (ids.has(id)) throw this.#error(`${what}.id`, `${id} again`, "an id of its own");
      ids.add(id);
      return {
        id,
        content: token.content,
        special: flag("special"),
        lstrip: flag("lstrip"),
        rstrip: flag("rstrip"),
        singleWord: flag("single_word"),
        normalized: flag("normalized"),
      };
    });
    // An empty token matches nothing; some files have one.
    return tokens.filter((token) => token.content !== "");
  }

  #readVocabulary(vocab: Json, added: readonly AddedToken[]): Vocabulary {
    const texts: (string | undefined)[] = [];
    const put = (text: string, id: number) => {
      const other = texts[id];
      if (other !== undefined && other !== text) {
        const what = `the token with id ${id}`;
        throw this.#error(what, `${JSON.stringify(other)} and ${JSON.stringify(text)}`, "one");
      }
      while (texts.length <= id) texts.push(undefined);
      texts[id] = text;
    };
    for (const text in vocab) {
      const what = `the id of ${JSON.stringify(text)}`;
      put(text, this.#id(vocab[text], { what, size: MAX_TOKENS }));
    }
    const outside = new Set<number>();
    for (const token of added) {
      const id = Object.hasOwn(vocab, token.content) ? vocab[token.content] : undefined;
      if (id === undefined) outside.add(token.id);
      else if (id !== token.id) {
        const what = `the id of added token ${JSON.stringify(token.content)}`;
        throw this.#error(what, token.id, `${id}, as in the vocabulary`);
      }
      put(token.content, token.id);
    }
    return this.#build(texts, outside);
  }

  /** `outside`: ids of added tokens that the model's own vocabulary does not have. */
  #build(texts: readonly (string | undefined)[], outside: ReadonlySet<number>): Vocabulary {
    const builder = new VocabularyBuilder(texts.length);
    const utf8 = new TextEncoder();
    let scratch = new Uint8Array(1024);
    for (let id = 0; id < texts.length; id++) {
      const text = texts[id];
      if (text === undefined) continue;
      if (3 * text.length > scratch.length) scratch = new Uint8Array(6 * text.length);
      const alphabetLength = outside.has(id)
        ? -1
        : writeAlphabetBytes(text, { out: scratch, offset: 0 });
      const mergeable = alphabetLength > 0;
      const length = mergeable ? alphabetLength : utf8.encodeInto(text, scratch).written;
      builder.add(id, { bytes: scratch, length, mergeable });
    }
    return builder.finish();
  }

  #readMerges(value: unknown, vocabulary: Vocabulary) {
    const rules = this.#list(value, "model.merges");
    const reader = new MergeReader({ action: this.#action, vocabulary, count: rules.length });
    for (const rule of rules) {
      if (Array.isArray(rule) && rule.length === 2) reader.addPair(rule[0], rule[1]);
      else reader.addLine(rule);
    }
    return reader.finish();
  }

  #readNormalizer(value: unknown): "nfc" | null {
    if (value === null || value === undefined) return null;
    const step = this.#object(value, "normalizer");
    if (step.type === "NFC") return "nfc";
    if (step.type === "Sequence") {
      const steps = this.#list(step.normalizers, "normalizer.normalizers");
      if (steps.length === 0) return null;
      // Normalising twice is normalising once, so a sequence may only hold NFC steps.
      if (steps.every((inner) => (inner as Json | null)?.type === "NFC")) return "nfc";
    }
    throw this.#error("normalizer", JSON.stringify(value), "NFC or null");
  }

  #checkDecoder(value: unknown): void {
    const decoder = this.#object(value, "decoder");
    const steps = decoder.type === "Sequence"
      ? this.#list(decoder.decoders, "decoder.decoders")
      : [decoder];
    if (!steps.every((step) => (step as Json | null)?.type === "ByteLevel")) {
      throw this.#error("decoder", JSON.stringify(value), "ByteLevel");
    }
  }

  /** Ids that the post-processor puts around a single text. */
  #readTemplate(value: unknown, size: number): { prefix: number[]; suffix: number[] } {
    const prefix: number[] = [];
    const suffix: number[] = [];
    if (value === null || value === undefined) return { prefix, suffix };
    const step = this.#object(value, "post_processor");
    switch (step.type) {
      case "ByteLevel":
        break;
      case "Sequence": {
        for (const inner of this.#list(step.processors, "post_processor.processors")) {
          if ((inner as Json | null)?.type === "Sequence") {
            throw this.#error("a step of post_processor", "Sequence", "a single processor");
          }
          const ends = this.#readTemplate(inner, size);
          prefix.unshift(...ends.prefix);
          suffix.push(...ends.suffix);
        }
        break;
      }
      case "TemplateProcessing": {
        const tokens = this.#object(step.special_tokens, "post_processor.special_tokens");
        let target = prefix;
        for (const item of this.#list(step.single, "post_processor.single")) {
          const part = this.#object(item, "a part of post_processor.single");
          if (part.Sequence !== undefined) {
            target = suffix;
            continue;
          }
          const name = this.#object(part.SpecialToken, "SpecialToken of post_processor.single").id;
          const known = typeof name === "string" && Object.hasOwn(tokens, name);
          const what = `post_processor.special_tokens[${JSON.stringify(name)}]`;
          const token = this.#object(known ? tokens[name] : undefined, what);
          for (const id of this.#list(token.ids, `${what}.ids`)) {
            target.push(this.#id(id, { what: `an id of ${what}`, size }));
          }
        }
        break;
      }
      default:
        throw this.#error("post_processor", step.type, "ByteLevel or TemplateProcessing");
    }
    return { prefix, suffix };
  }

  /** `add_bos_token` and `add_eos_token` overrule the post-processor, as in transformers. */
  #ends(
    key: string,
    options: { config: Json; id: number | null; template: number[] },
  ): number[] {
    const value = options.config[key];
    if (value === undefined || value === null) return options.template;
    if (typeof value !== "boolean") throw this.#error(key, JSON.stringify(value), "a boolean");
    if (!value) return [];
    if (options.template.length > 0) return options.template;
    if (options.id === null) throw this.#error(key, "true", "false where there is no such token");
    return [options.id];
  }

  /**
   * The id of `bos_token` and its like: a string, or an object with its text as `content`. Training
   * adds a padding token beyond the vocabulary now and then, which answers have no use for.
   */
  #tokenId(
    key: string,
    files: { config: Json; map: Json; added: readonly AddedToken[]; mayBeUnknown: boolean },
  ): number | null {
    const value = files.config[key] ?? files.map[key];
    if (value === undefined || value === null) return null;
    const text = typeof value === "string" ? value : this.#object(value, key).content;
    if (text === "") return null;
    const token = files.added.find((token) => token.content === text);
    if (token === undefined && !files.mayBeUnknown) {
      throw this.#error(key, JSON.stringify(text), "an added token");
    }
    return token?.id ?? null;
  }

  #generationEnds(generation: Json, size: number): number[] {
    const value = generation.eos_token_id;
    if (value === undefined || value === null) return [];
    return (Array.isArray(value) ? value : [value])
      .map((id) => this.#id(id, { what: "eos_token_id of generation_config.json", size }));
  }

  #id(value: unknown, options: { what: string; size: number }): number {
    if (
      typeof value !== "number" || !Number.isInteger(value) || value < 0 || value >= options.size
    ) {
      throw this.#error(options.what, JSON.stringify(value), `an integer below ${options.size}`);
    }
    return value;
  }

  #object(value: unknown, what: string): Json {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw this.#error(what, describe(value), "an object");
    }
    return value as Json;
  }

  #list(value: unknown, what: string): readonly unknown[] {
    if (!Array.isArray(value)) throw this.#error(what, describe(value), "an array");
    return value;
  }

  #optional(file: string, text: string | null | undefined): Json {
    return text === null || text === undefined ? {} : this.#parse(file, text);
  }

  #parse(file: string, text: string): Json {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      throw this.#error(file, `not JSON (${(error as Error).message})`, "JSON");
    }
    return this.#object(value, file);
  }

  #error(what: string, is: unknown, must: string): FormatError {
    return FormatError.of(this.#action, what, is, must);
  }
}

function describe(value: unknown): string {
  if (value === undefined) return "missing";
  if (value === null) return "null";
  return Array.isArray(value) ? "an array" : `a ${typeof value}`;
}
