/**
 * tokenizer.json and tokenizer_config.json of a trained byte-level BPE: what our own reader loads, and
 * Hugging Face's. Special tokens and the chat template are in the form of DeepSeek-R1.
 */

import { byteLetters } from "../../../tokenizer/byte_alphabet.ts";
import {
  CL100K_PATTERN,
  DEEPSEEK_V3_PATTERN,
  HAN_AND_KANA,
} from "../../../tokenizer/pre_tokenizers.ts";
import type { Merge } from "./bpe_trainer.ts";

/** Special tokens in the order of their ids. */
export const BOS = "<｜begin▁of▁sentence｜>";
export const EOS = "<｜end▁of▁sentence｜>";
export const PAD = "<｜▁pad▁｜>";
export const USER = "<｜User｜>";
export const ASSISTANT = "<｜Assistant｜>";
export const SPECIAL_TOKENS: readonly string[] = Object.freeze([BOS, EOS, PAD, USER, ASSISTANT]);

/** Tokens of their own, but text all the same: who asks for a model's text gets to see them. */
export const THINK_TOKENS: readonly string[] = Object.freeze(["<think>", "</think>"]);

export const ADDED_TOKENS: readonly string[] = Object.freeze([...SPECIAL_TOKENS, ...THINK_TOKENS]);

/** The ids of all 256 bytes follow the added tokens, in the order of their letters. */
export function byteIds(): number[] {
  const letters = byteLetters();
  const order = [...letters.keys()].sort((a, b) => letters[a] < letters[b] ? -1 : 1);
  const ids: number[] = [];
  order.forEach((byte, i) => ids[byte] = ADDED_TOKENS.length + i);
  return ids;
}

export const FIRST_MERGE_ID: number = ADDED_TOKENS.length + 256;

/**
 * How text is cut before merging. Both are published patterns with a name in GGUF: `qwen2` (each digit
 * alone) and `deepseek-v3` (up to three digits).
 */
export function preTokenizerJson(digits: "single" | "triples"): Record<string, unknown> {
  const split = (pattern: string) => ({
    type: "Split",
    pattern: { Regex: pattern },
    behavior: "Isolated",
    invert: false,
  });
  const splits = digits === "single"
    ? [split(CL100K_PATTERN("\\p{N}"))]
    : [split("\\p{N}{1,3}"), split(`[${HAN_AND_KANA}]+`), split(DEEPSEEK_V3_PATTERN)];
  const bytes = {
    type: "ByteLevel",
    add_prefix_space: false,
    trim_offsets: false,
    use_regex: false,
  };
  return { type: "Sequence", pretokenizers: [...splits, bytes] };
}

/** Reasoning of earlier turns is left out, and a new answer begins with reasoning. */
export const CHAT_TEMPLATE: string = [
  "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}",
  "{{ bos_token }}",
  "{% for message in messages %}",
  "{% if message['role'] == 'system' %}{{ message['content'] }}",
  `{% elif message['role'] == 'user' %}{{ '${USER}' + message['content'] }}`,
  `{% elif message['role'] == 'assistant' %}{{ '${ASSISTANT}' + `,
  "(message['content'].split('</think>')[-1] | trim) + eos_token }}",
  "{% endif %}{% endfor %}",
  `{% if add_generation_prompt %}{{ '${ASSISTANT}<think>\\n' }}{% endif %}`,
].join("");

export interface TokenizerFiles {
  readonly "tokenizer.json": string;
  readonly "tokenizer_config.json": string;
}

export function tokenizerFiles(
  merges: readonly Merge[],
  options: { digits: "single" | "triples"; contextLength: number },
): TokenizerFiles {
  const json = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: ADDED_TOKENS.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: SPECIAL_TOKENS.includes(content),
    })),
    normalizer: null,
    pre_tokenizer: preTokenizerJson(options.digits),
    post_processor: {
      type: "TemplateProcessing",
      single: [
        { SpecialToken: { id: BOS, type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
      ],
      pair: [
        { SpecialToken: { id: BOS, type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { Sequence: { id: "B", type_id: 1 } },
      ],
      special_tokens: { [BOS]: { id: BOS, ids: [0], tokens: [BOS] } },
    },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: modelJson(merges),
  };
  const config = {
    add_bos_token: true,
    add_eos_token: false,
    bos_token: BOS,
    eos_token: EOS,
    pad_token: PAD,
    clean_up_tokenization_spaces: false,
    model_max_length: options.contextLength,
    tokenizer_class: "PreTrainedTokenizerFast",
    chat_template: CHAT_TEMPLATE,
  };
  return {
    "tokenizer.json": `${JSON.stringify(json, null, 1)}\n`,
    "tokenizer_config.json": `${JSON.stringify(config, null, 1)}\n`,
  };
}

function modelJson(merges: readonly Merge[]): Record<string, unknown> {
  const letters = byteLetters();
  const texts: string[] = [...ADDED_TOKENS];
  byteIds().forEach((id, byte) => texts[id] = letters[byte]);
  for (const { left, right, id } of merges) texts[id] = texts[left] + texts[right];
  return {
    type: "BPE",
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    ignore_merges: false,
    vocab: Object.fromEntries(texts.map((text, id) => [text, id])),
    merges: merges.map(({ left, right }) => [texts[left], texts[right]]),
  };
}
