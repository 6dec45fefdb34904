/**
 * What packing needs of 32-bit words: reading them wherever they lie, telling scales that are no
 * numbers, and bringing together fields of a few bits that a file keeps in different words.
 *
 * The `low` and `high` functions interleave two words: every byte of the result has the low (or high)
 * halves of the fields of the first one's byte where they were, and those of the second one between them.
 * Applied to nibbles, then pairs, then single bits, they transpose: word i of 2, 4 or 8 had field k of
 * each byte at k, and word k gets it at i.
 */

const NIBBLES = 0x0f0f0f0f;
const PAIRS = 0x33333333;
const BITS = 0x55555555;

export function lowNibbles(a: number, b: number): number {
  return (a & NIBBLES) | ((b & NIBBLES) << 4);
}

export function highNibbles(a: number, b: number): number {
  return ((a >>> 4) & NIBBLES) | (b & ~NIBBLES);
}

export function lowPairs(a: number, b: number): number {
  return (a & PAIRS) | ((b & PAIRS) << 2);
}

export function highPairs(a: number, b: number): number {
  return ((a >>> 2) & PAIRS) | (b & ~PAIRS);
}

export function lowBits(a: number, b: number): number {
  return (a & BITS) | ((b & BITS) << 1);
}

export function highBits(a: number, b: number): number {
  return ((a >>> 1) & BITS) | (b & ~BITS);
}

/** Words of some bytes, at any offset. */
export function viewOf({ buffer, byteOffset, byteLength }: Uint8Array): DataView {
  return new DataView(buffer, byteOffset, byteLength);
}

/** Not zero where one of the two halves in a word is infinite or NaN. */
export function wrongHalves(word: number): number {
  return ((word & 0x7c007c00) + 0x04000400) & 0x80008000;
}
