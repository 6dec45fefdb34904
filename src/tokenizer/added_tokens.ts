/**
 * Finds added tokens (`<|im_end|>`, `<think>`, ...) in text before it is pre-tokenised: the leftmost
 * match, the longest among those that begin there.
 */

import { FormatError } from "../errors.ts";

/** A token that stands for a text as a whole. Field meanings are those of tokenizer.json. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Control tokens: left out of decoded text on request, and of encoding without `parseSpecial`. */
  readonly special: boolean;
  /** The match takes the white space on its left (right) along. */
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  /** Matches only between characters that are no word characters. */
  readonly singleWord: boolean;
  /** Is looked for after normalisation. */
  readonly normalized: boolean;
}

export interface AddedTokenMatch {
  readonly token: AddedToken;
  /** UTF-16 offsets, white space taken along included. */
  readonly start: number;
  readonly end: number;
}

/** UTF-16 units an added token may have; bounds the work that a match can cost per position. */
const MAX_UNITS = 1024;

interface Node {
  next: Map<number, Node> | null;
  token: AddedToken | null;
}

const WORD = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;
const SPACE = /\p{White_Space}/u;

/** A trie over the contents of added tokens. */
export class AddedTokenTrie {
  readonly #root: Node = { next: null, token: null };
  /** First units below 128 that begin a token; the others are looked up in the root. */
  readonly #asciiStart = new Uint8Array(128);

  constructor(tokens: Iterable<AddedToken>, options: { action: string }) {
    for (const token of tokens) {
      const { content } = token;
      if (content.length === 0 || content.length > MAX_UNITS) {
        const what = `the length of added token ${token.id}`;
        throw FormatError.of(options.action, what, content.length, `from 1 to ${MAX_UNITS}`);
      }
      let node = this.#root;
      for (let i = 0; i < content.length; i++) {
        const unit = content.charCodeAt(i);
        node.next ??= new Map();
        let child = node.next.get(unit);
        if (child === undefined) node.next.set(unit, child = { next: null, token: null });
        node = child;
      }
      if (node.token !== null) {
        const what = `added token ${JSON.stringify(content)}`;
        throw FormatError.of(
          options.action,
          what,
          `given to ${node.token.id} and ${token.id}`,
          "one",
        );
      }
      node.token = token;
      const first = content.charCodeAt(0);
      if (first < 128) this.#asciiStart[first] = 1;
    }
  }

  /**
   * The first match that begins at or after `from`; what lies before `from` is only looked at to
   * decide on word borders. With `special` false, special tokens are plain text.
   */
  find(text: string, from: number, options: { special: boolean }): AddedTokenMatch | null {
    const root = this.#root;
    if (root.next === null) return null;
    for (let start = from; start < text.length; start++) {
      const unit = text.charCodeAt(start);
      if (unit < 128 ? this.#asciiStart[unit] === 0 : !root.next.has(unit)) continue;
      const token = this.#longestAt(text, start);
      if (token === null) continue;
      const end = start + token.content.length;
      if (
        (token.special && !options.special) || (token.singleWord && !standsAlone(text, start, end))
      ) {
        // A match that does not count hides those that begin inside it.
        start = end - 1;
        continue;
      }
      return {
        token,
        start: token.lstrip ? spacesBefore(text, start, from) : start,
        end: token.rstrip ? spacesBehind(text, end) : end,
      };
    }
    return null;
  }

  #longestAt(text: string, start: number): AddedToken | null {
    let found: AddedToken | null = null;
    let node: Node | undefined = this.#root;
    for (let i = start; node?.next; i++) {
      node = i < text.length ? node.next.get(text.charCodeAt(i)) : undefined;
      if (node?.token) found = node.token;
    }
    return found;
  }
}

function standsAlone(text: string, start: number, end: number): boolean {
  const before = text[start - 1] ?? "";
  const isPair = before >= "\udc00" && before <= "\udfff";
  const left = isPair ? text.slice(start - 2, start) : before;
  const right = end < text.length ? String.fromCodePoint(text.codePointAt(end)!) : "";
  return !WORD.test(left) && !WORD.test(right);
}

function spacesBefore(text: string, start: number, from: number): number {
  while (start > from && SPACE.test(text[start - 1])) start--;
  return start;
}

function spacesBehind(text: string, end: number): number {
  while (end < text.length && SPACE.test(text[end])) end++;
  return end;
}
