/** Log-probabilities of token ids as scores of pieces of text, each released with its text. */

import type { EngineEvent, TokenLogprob } from "../engine/types.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import type { Prompt, PromptScore, ScoredPiece, TokenPiece, TokenScore } from "./types.ts";

/** What scores need of a tokenizer. */
export type PieceSource = Pick<Tokenizer, "idToBytes" | "idToPiece">;

/** Length in code points. */
export function codePointsOf(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

function pieceOf(tokenizer: PieceSource, token: number): TokenPiece {
  return { token, text: tokenizer.idToPiece(token), bytes: tokenizer.idToBytes(token) };
}

/** Adds text and bytes to an engine's log-probability. */
export function scoredPiece(
  tokenizer: PieceSource,
  { token, logprob }: TokenLogprob,
): ScoredPiece {
  return { ...pieceOf(tokenizer, token), logprob };
}

type PromptEvent = Extract<EngineEvent, { type: "prompt" }>;

/** Scores of a prompt's tokens, their places in `prompt.text` included. */
export function promptScores(
  tokenizer: PieceSource & Pick<Tokenizer, "decoder">,
  { prompt, event }: { prompt: Prompt; event: PromptEvent },
): PromptScore[] {
  const decoder = tokenizer.decoder();
  let offset = 0;
  return prompt.tokens.map((token, i) => {
    const start = offset;
    if (i >= prompt.prefixTokens) offset += codePointsOf(decoder.push(token));
    const scored = event.promptLogprobs?.[i];
    if (!scored) return { chosen: pieceOf(tokenizer, token), offset: start };
    return {
      chosen: scoredPiece(tokenizer, scored.chosen),
      top: scored.top.map((entry) => scoredPiece(tokenizer, entry)),
      offset: start,
      reasoning: false,
    };
  });
}

interface HeldScore {
  readonly score: TokenScore;
  /** Where its text begins and ends in the content, in UTF-16 units. */
  readonly start: number;
  readonly end: number;
}

/** Scores of tokens whose text may still be cut off by a stop string. */
export class ScoreQueue {
  #held: HeldScore[] = [];

  push(held: HeldScore): void {
    this.#held.push(held);
  }

  /** Takes the scores whose text lies before `released`, in order. */
  take(released: number): TokenScore[] {
    let count = 0;
    while (count < this.#held.length && this.#held[count].end <= released) count++;
    return this.#held.splice(0, count).map(({ score }) => score);
  }

  /** Takes the scores of all tokens that begin before the content's end, after a stop string. */
  takeUntil(contentEnd: number): TokenScore[] {
    const kept = this.#held.filter(({ start, end }) => start < contentEnd || end <= contentEnd);
    this.#held = [];
    return kept.map(({ score }) => score);
  }
}
