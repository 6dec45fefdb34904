/** Words of a text as filters see them. */

import { hashText } from "../hash.ts";

const WORD = /[\p{L}\p{N}]+/gu;

/** Lower-case runs of letters and digits. */
export function wordsOf(text: string): string[] {
  return text.toLowerCase().match(WORD) ?? [];
}

/** A 32-bit hash for each word, in order. */
export function wordHashes(text: string): Uint32Array {
  const words = wordsOf(text);
  const hashes = new Uint32Array(words.length);
  for (let i = 0; i < words.length; i++) hashes[i] = hashText(words[i]) % 2 ** 32;
  return hashes;
}

/** The same text whatever its case and spacing. */
export function normalized(text: string): string {
  return text.toLowerCase().replace(/\s+/g, " ").trim();
}
