/** Text from token ids one at a time, in whole characters only. */

/** What a decoder needs of its tokenizer. */
export interface TokenBytes {
  /** The token's bytes; empty for tokens that are left out. */
  bytesOf(id: number): Uint8Array;
}

/**
 * Joins the bytes of tokens into text. A sequence of bytes that is not a whole character yet is held
 * back; one that cannot become any is U+FFFD. All answers together are `decode` of all ids.
 */
export class StreamDecoder {
  readonly #tokens: TokenBytes;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(tokens: TokenBytes) {
    this.#tokens = tokens;
  }

  /** Adds a token and returns the text that is now certain, often "". */
  push(id: number): string {
    return this.#decoder.decode(this.#tokens.bytesOf(id), { stream: true });
  }

  /** Ends the text: bytes held back become U+FFFD. The decoder can be used again. */
  flush(): string {
    return this.#decoder.decode();
  }
}
