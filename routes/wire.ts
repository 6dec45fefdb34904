/** Text-layer values in the shapes that OpenAI's and DeepSeek's clients read. */

import type { PromptScore, ScoredPiece, TokenPiece, TokenScore } from "../src/text/types.ts";

/** Ids are for correlation only. */
export function newId(prefix: "chatcmpl" | "cmpl" | "req"): string {
  return `${prefix}-${crypto.randomUUID().replaceAll("-", "")}`;
}

export function nowSeconds(): number {
  return Math.floor(Date.now() / 1000);
}

function chatPiece(piece: ScoredPiece) {
  return { token: piece.text, logprob: piece.logprob, bytes: [...piece.bytes] };
}

function chatScore(score: TokenScore, topLogprobs: number) {
  const top = score.top.slice(0, topLogprobs).map(chatPiece);
  return { ...chatPiece(score.chosen), top_logprobs: top };
}

/** `logprobs` of a chat choice; thinking is listed apart, as DeepSeek does it. */
export function chatLogprobs(scores: readonly TokenScore[], topLogprobs: number) {
  const content = scores.filter((score) => !score.reasoning);
  const reasoning = scores.filter((score) => score.reasoning);
  return {
    content: content.map((score) => chatScore(score, topLogprobs)),
    ...(reasoning.length > 0 && {
      reasoning_content: reasoning.map((score) => chatScore(score, topLogprobs)),
    }),
    refusal: null,
  };
}

const UTF8 = new TextEncoder();

/** A token's name in text completions: its text, or its bytes where they are no whole characters. */
function tokenLabel(piece: TokenPiece): string {
  const encoded = UTF8.encode(piece.text);
  const whole = encoded.length === piece.bytes.length &&
    encoded.every((byte, i) => byte === piece.bytes[i]);
  if (whole) return piece.text;
  const hex = [...piece.bytes].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`);
  return `bytes:${hex.join("")}`;
}

export interface CompletionLogprobs {
  readonly tokens: string[];
  readonly token_logprobs: (number | null)[];
  readonly top_logprobs: (Record<string, number> | null)[];
  readonly text_offset: number[];
}

/** The most likely tokens by name; the chosen one is always there. */
function topLogprobs(score: TokenScore, count: number): Record<string, number> {
  // Entries, since a token may be called __proto__.
  const entries = new Map<string, number>();
  for (const piece of [...score.top.slice(0, count), score.chosen]) {
    const label = tokenLabel(piece);
    entries.set(label, Math.max(piece.logprob, entries.get(label) ?? -Infinity));
  }
  return Object.fromEntries(entries);
}

/** `logprobs` of a text completion; `offset` is where the scores' text begins in the choice's. */
export function completionLogprobs(
  scores: readonly PromptScore[],
  options: { topLogprobs: number; offset: number },
): CompletionLogprobs {
  return {
    tokens: scores.map(({ chosen }) => tokenLabel(chosen)),
    token_logprobs: scores.map((score) => "top" in score ? score.chosen.logprob : null),
    top_logprobs: scores.map((score) =>
      "top" in score ? topLogprobs(score, options.topLogprobs) : null
    ),
    text_offset: scores.map((score) => score.offset + options.offset),
  };
}

/** Characters as `text_offset` counts them: code points. */
export function codePoints(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}
