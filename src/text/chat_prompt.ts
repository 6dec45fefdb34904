/**
 * A rendered conversation as token ids. The template's own control tokens are read as such; the same
 * text inside a message is plain text, so that what someone writes can neither end a turn nor begin
 * another. (Tools that tokenise the rendered text as a whole, Hugging Face's included, read it as
 * control tokens there too; without such text in a message the ids are the same.)
 */

import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import type { TextMessage } from "./types.ts";

/** What encoding a conversation needs of a tokenizer. */
export type ControlTokens = Pick<Tokenizer, "vocabSize" | "isSpecial" | "idToPiece" | "tokenToId">;

/** Private-use characters that begin and end a placeholder. */
const OPEN = "\u{F5A1C}";
const CLOSE = "\u{F5A1D}";

/** How published templates write the borders of turns, which files do not always call special. */
const TURN_MARK = /<[|｜][^<>\s]{1,40}[|｜]>/g;

/** Templates look for these in what the assistant said before. */
const THINKING: ReadonlySet<string> = new Set(["<think>", "</think>"]);

/**
 * Finds the texts that control a conversation: special tokens, and the tokens by which the template
 * marks turns. The longest wins where several begin at one place.
 */
export function controlTokenPattern(tokenizer: ControlTokens, template: string): RegExp | null {
  const texts = new Set<string>();
  for (let id = 0; id < tokenizer.vocabSize; id++) {
    if (tokenizer.isSpecial(id)) texts.add(tokenizer.idToPiece(id));
  }
  for (const [mark] of template.matchAll(TURN_MARK)) {
    if (tokenizer.tokenToId(mark) !== undefined) texts.add(mark);
  }
  const literals = [...texts].filter((text) => text !== "" && !THINKING.has(text))
    .sort((a, b) => b.length - a.length);
  // Only literal texts in an alternation: matching takes linear time.
  const pattern = literals.map((text) => RegExp.escape(text)).join("|");
  return pattern === "" ? null : new RegExp(pattern, "gu");
}

/** A part of a rendered prompt, encoded by itself, and whether its control tokens are the template's. */
export interface PromptPart {
  readonly text: string;
  readonly parseSpecial: boolean;
}

/** Takes control tokens out of messages before rendering and puts their text back afterwards. */
export class Disarmed {
  readonly messages: readonly TextMessage[];
  readonly #taken: string[] = [];
  readonly #mark: string;

  constructor(messages: readonly TextMessage[], pattern: RegExp | null) {
    // Nobody can guess it, so no message can pretend to hold a placeholder.
    this.#mark = `${OPEN}${crypto.randomUUID()}:`;
    this.messages = pattern === null ? messages : messages.map((message) => ({
      ...message,
      content: this.#take(message.content, pattern),
      ...(message.reasoning !== undefined && { reasoning: this.#take(message.reasoning, pattern) }),
      ...(message.name !== undefined && { name: this.#take(message.name, pattern) }),
    }));
  }

  #take(text: string, pattern: RegExp): string {
    return text.replace(pattern, (found) => `${this.#mark}${this.#taken.push(found) - 1}${CLOSE}`);
  }

  /** Splits the rendered text so that only the template's control tokens are seen as such. */
  parts(rendered: string, pattern: RegExp | null): PromptPart[] {
    if (this.#taken.length === 0 || pattern === null) {
      return [{ text: rendered, parseSpecial: true }];
    }
    const parts: PromptPart[] = [];
    const add = (text: string, parseSpecial: boolean) => {
      if (text === "") return;
      const previous = parts.at(-1);
      if (previous?.parseSpecial && parseSpecial) {
        parts[parts.length - 1] = { text: previous.text + text, parseSpecial };
      } else parts.push({ text, parseSpecial });
    };
    // The template's control tokens are borders that text never merges across.
    let last = 0;
    const between = (text: string) => {
      const pieces = this.#restore(text);
      for (const piece of pieces) add(piece, pieces.length === 1);
    };
    for (const match of rendered.matchAll(pattern)) {
      between(rendered.slice(last, match.index));
      add(match[0], true);
      last = match.index + match[0].length;
    }
    between(rendered.slice(last));
    return parts;
  }

  /**
   * Puts back what was taken, cut behind its first character: encoded apart, the halves are no control
   * token, whether the file calls it special or not. One piece where nothing was taken.
   */
  #restore(text: string): string[] {
    const [first, ...rest] = text.split(this.#mark);
    const pieces = [first];
    for (const piece of rest) {
      const end = piece.indexOf(CLOSE);
      const taken = this.#taken[Number(piece.slice(0, end))];
      const head = String.fromCodePoint(taken.codePointAt(0)!);
      pieces[pieces.length - 1] += head;
      pieces.push(taken.slice(head.length) + piece.slice(end + CLOSE.length));
    }
    return pieces;
  }
}
