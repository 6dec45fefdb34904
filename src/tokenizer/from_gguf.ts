/** Tokenizers of GGUF files: the `tokenizer.ggml.*` keys. */

import { FormatError } from "../errors.ts";
import type { MetadataArray, MetadataValue } from "../formats/tensor_source.ts";
import type { AddedToken } from "./added_tokens.ts";
import { decodeAlphabetInPlace, writeAlphabetBytes } from "./byte_alphabet.ts";
import { MergeReader } from "./merge_reader.ts";
import type { Merges } from "./merges.ts";
import { preTokenizerByName } from "./pre_tokenizers.ts";
import { endTokens, isControlText } from "./special_texts.ts";
import { Tokenizer } from "./tokenizer.ts";
import { type Vocabulary, VocabularyBuilder } from "./vocabulary.ts";

/** Values of `tokenizer.ggml.token_type`. */
const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;
const BYTE = 6;

/** Tokens a vocabulary may have; published ones stay below 2^18. */
const MAX_TOKENS = 2 ** 20;

/** An array of the metadata, with or without the file's bytes behind it. */
type Elements = MetadataArray | readonly MetadataValue[];

type Metadata = ReadonlyMap<string, MetadataValue>;

/**
 * Reads a byte-level BPE tokenizer; `name` is the file's, for messages. FormatError where keys are
 * missing, of the wrong type, inconsistent, or ask for another kind of tokenizer.
 */
export function tokenizerFromGguf(metadata: Metadata, options: { name: string }): Tokenizer {
  return new GgufReader(metadata, options.name).read();
}

class GgufReader {
  readonly #metadata: Metadata;
  readonly #action: string;

  constructor(metadata: Metadata, name: string) {
    this.#metadata = metadata;
    this.#action = `read the tokenizer of ${JSON.stringify(name)}`;
  }

  read(): Tokenizer {
    const action = this.#action;
    const model = this.#string("model");
    if (model !== "gpt2") {
      const must = '"gpt2" (byte-level BPE, the only kind supported)';
      throw this.#error("tokenizer.ggml.model", JSON.stringify(model), must);
    }
    const pre = preTokenizerByName(this.#string("pre"), { action });
    const { vocabulary, added } = this.#readTokens();
    const lines = this.#array("merges");
    const merges = this.#readMerges(lines, vocabulary);
    const bosToken = this.#id("bos_token_id", vocabulary.size);
    const eosToken = this.#id("eos_token_id", vocabulary.size);
    const turnEnds = ["eot_token_id", "eom_token_id"].map((key) => this.#id(key, vocabulary.size));
    return new Tokenizer({
      action,
      vocabulary,
      merges,
      scanners: pre.scanners,
      // GGUF has no normaliser; the reference implementation of the format applies none.
      normalizer: null,
      addedTokens: added,
      ignoreMerges: pre.ignoreMerges,
      prefix: this.#ends("add_bos_token", { fallback: pre.addBos, id: bosToken }),
      suffix: this.#ends("add_eos_token", { fallback: false, id: eosToken }),
      bosToken,
      eosToken,
      padToken: this.#id("padding_token_id", vocabulary.size),
      eosTokens: endTokens([eosToken, ...turnEnds], added),
    });
  }

  #readTokens(): { vocabulary: Vocabulary; added: AddedToken[] } {
    const texts = this.#array("tokens");
    const count = texts.length;
    if (count < 1 || count > MAX_TOKENS) {
      const what = "the length of tokenizer.ggml.tokens";
      throw this.#error(what, count, `from 1 to ${MAX_TOKENS}`);
    }
    const types = this.#readTypes(count);
    const builder = new VocabularyBuilder(count);
    const added: AddedToken[] = [];
    const scratch = new Scratch();
    for (let id = 0; id < count; id++) {
      const type = types[id];
      const isByteText = type === NORMAL && scratch.readAlphabet(texts, id);
      const text = isByteText ? "" : this.#text(texts, id);
      if (!isByteText) scratch.readText(text);
      // Texts outside the byte alphabet cannot come out of merges; padding must not.
      const mergeable = isByteText || (type !== UNUSED && scratch.isAlphabet());
      const { bytes, length } = scratch;
      const twin = builder.add(id, { bytes, length, mergeable: mergeable && length > 0 });
      if (twin >= 0) {
        const what = `the text of token ${id}, ${JSON.stringify(this.#text(texts, id))},`;
        throw this.#error(what, `that of token ${twin}`, "its own");
      }
      if ((type === CONTROL || type === USER_DEFINED || type === UNKNOWN) && length > 0) {
        added.push({
          id,
          content: text,
          special: type !== USER_DEFINED || isControlText(text),
          lstrip: false,
          rstrip: false,
          singleWord: false,
          normalized: false,
        });
      }
    }
    return { vocabulary: builder.finish(), added };
  }

  #text(texts: Elements, id: number): string {
    const text = texts.at(id);
    if (typeof text !== "string") {
      throw this.#error(`element ${id} of tokenizer.ggml.tokens`, typeof text, "a string");
    }
    return text;
  }

  #readMerges(lines: Elements, vocabulary: Vocabulary): Merges {
    const merges = new MergeReader({ action: this.#action, vocabulary, count: lines.length });
    if (!("writeUtf8" in lines) || lines.writeUtf8 === undefined) {
      for (const line of lines) merges.addLine(line);
      return merges.finish();
    }
    let line = new Uint8Array(256);
    for (let i = 0; i < lines.length; i++) {
      let length = lines.writeUtf8(i, line);
      if (length > line.length) {
        line = new Uint8Array(2 * length);
        length = lines.writeUtf8(i, line);
      }
      merges.addUtf8(line, length, () => lines.at(i));
    }
    return merges.finish();
  }

  /** The token types; all normal where the file has none. */
  #readTypes(count: number): Uint8Array {
    const types = new Uint8Array(count).fill(NORMAL);
    if (!this.#metadata.has("tokenizer.ggml.token_type")) return types;
    const values = this.#array("token_type");
    if (values.length !== count) {
      const what = "the length of tokenizer.ggml.token_type";
      throw this.#error(what, values.length, `${count}, the number of tokens`);
    }
    let id = 0;
    for (const value of values) {
      if (typeof value !== "number" || !(value >= NORMAL && value <= BYTE)) {
        throw this.#error(`the type of token ${id}`, value, `from ${NORMAL} to ${BYTE}`);
      }
      types[id++] = value;
    }
    return types;
  }

  #ends(key: string, options: { fallback: boolean; id: number | null }): number[] {
    const value = this.#metadata.get(`tokenizer.ggml.${key}`) ?? options.fallback;
    if (typeof value !== "boolean") {
      throw this.#error(`tokenizer.ggml.${key}`, String(value), "a bool");
    }
    if (!value) return [];
    if (options.id === null) {
      throw this.#error(`tokenizer.ggml.${key}`, "true", "false where the token has no id");
    }
    return [options.id];
  }

  #id(key: string, size: number): number | null {
    const value = this.#metadata.get(`tokenizer.ggml.${key}`);
    if (value === undefined || value === null) return null;
    if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value >= size) {
      throw this.#error(`tokenizer.ggml.${key}`, String(value), `an id below ${size}`);
    }
    return value;
  }

  #string(key: string): string {
    const value = this.#metadata.get(`tokenizer.ggml.${key}`);
    if (typeof value !== "string") {
      const is = value === undefined ? "missing" : typeof value;
      throw this.#error(`tokenizer.ggml.${key}`, is, "a string");
    }
    return value;
  }

  #array(key: string): Elements {
    const value = this.#metadata.get(`tokenizer.ggml.${key}`);
    if (typeof value !== "object" || value === null || !isArray(value)) {
      const is = value === undefined ? "missing" : typeof value;
      throw this.#error(`tokenizer.ggml.${key}`, is, "an array");
    }
    return value;
  }

  #error(what: string, is: unknown, must: string): FormatError {
    return FormatError.of(this.#action, what, is, must);
  }
}

function isArray(
  value: MetadataArray | readonly MetadataValue[] | { readonly [key: string]: MetadataValue },
): value is Elements {
  return Symbol.iterator in value;
}

/** The bytes of one token at a time, without a string where the file's bytes will do. */
class Scratch {
  bytes = new Uint8Array(1024);
  length = 0;
  readonly #utf8 = new TextEncoder();

  /** Reads an element written in the byte alphabet; false where it is not, or no string. */
  readAlphabet(texts: Elements, id: number): boolean {
    if ("writeUtf8" in texts && texts.writeUtf8 !== undefined) {
      const length = texts.writeUtf8(id, this.bytes);
      if (length > this.bytes.length) {
        this.bytes = new Uint8Array(2 * length);
        texts.writeUtf8(id, this.bytes);
      }
      this.length = decodeAlphabetInPlace(this.bytes, { from: 0, to: length, offset: 0 });
      return this.length >= 0;
    }
    const text = texts.at(id);
    if (typeof text !== "string") return false;
    this.#reserve(text.length);
    this.length = writeAlphabetBytes(text, { out: this.bytes, offset: 0 });
    return this.length >= 0;
  }

  /** Reads a text as its UTF-8. */
  readText(text: string): void {
    this.#reserve(3 * text.length);
    this.length = this.#utf8.encodeInto(text, this.bytes).written;
  }

  /** Whether the bytes are letters of the alphabet that stand for themselves. */
  isAlphabet(): boolean {
    const { bytes, length } = this;
    return bytes.subarray(0, length).every((byte) => byte > 0x20 && byte < 0x7f);
  }

  #reserve(length: number): void {
    if (length > this.bytes.length) this.bytes = new Uint8Array(2 * length);
  }
}
