/** What a file's superblocks keep apart of bits that belong together, and the other way round. */

import { highBits, highNibbles, highPairs, lowBits, lowNibbles, lowPairs } from "./words.ts";

/** Some words in a file, and the first word that they go to. */
export interface Move {
  readonly view: DataView;
  readonly at: number;
  readonly to: number;
}

/** 32 bytes of two blocks' nibbles: the low ones are one block's, the high ones that `apart` words on. */
export function moveNibbles(
  out: Uint32Array,
  { view, at, to, apart }: Move & { apart: number },
): void {
  for (let i = 0; i < 4; i++) {
    const a = view.getInt32(at + 8 * i, true);
    const b = view.getInt32(at + 8 * i + 4, true);
    out[to + i] = lowNibbles(a, b);
    out[to + apart + i] = highNibbles(a, b);
  }
}

/** 32 bytes of four blocks' pairs of bits: pair i belongs to block i. Each block gets its two words. */
export function movePairs(out: Uint32Array, { view, at, to }: Move): void {
  for (let i = 0; i < 2; i++) {
    const w0 = view.getInt32(at + 16 * i, true);
    const w1 = view.getInt32(at + 16 * i + 4, true);
    const w2 = view.getInt32(at + 16 * i + 8, true);
    const w3 = view.getInt32(at + 16 * i + 12, true);
    const a = lowNibbles(w0, w2);
    const b = lowNibbles(w1, w3);
    const c = highNibbles(w0, w2);
    const d = highNibbles(w1, w3);
    out[to + i] = lowPairs(a, b);
    out[to + i + 2] = highPairs(a, b);
    out[to + i + 4] = lowPairs(c, d);
    out[to + i + 6] = highPairs(c, d);
  }
}

/** 32 bytes of eight blocks' bits: bit i belongs to block i. Each block gets its word, as `classic.ts` has it. */
export function moveBits(out: Uint32Array, { view, at, to }: Move): void {
  const w0 = view.getInt32(at, true);
  const w1 = view.getInt32(at + 4, true);
  const w2 = view.getInt32(at + 8, true);
  const w3 = view.getInt32(at + 12, true);
  const w4 = view.getInt32(at + 16, true);
  const w5 = view.getInt32(at + 20, true);
  const w6 = view.getInt32(at + 24, true);
  const w7 = view.getInt32(at + 28, true);
  // Words with the first four values of an eight come first, those with the others behind them.
  moveHalfBits(out, {
    to,
    a: lowNibbles(w0, w1),
    b: lowNibbles(w2, w3),
    c: lowNibbles(w4, w5),
    d: lowNibbles(w6, w7),
  });
  moveHalfBits(out, {
    to: to + 4,
    a: highNibbles(w0, w1),
    b: highNibbles(w2, w3),
    c: highNibbles(w4, w5),
    d: highNibbles(w6, w7),
  });
}

function moveHalfBits(
  out: Uint32Array,
  { to, a, b, c, d }: { to: number; a: number; b: number; c: number; d: number },
): void {
  const low = [lowPairs(a, c), lowPairs(b, d)];
  const high = [highPairs(a, c), highPairs(b, d)];
  out[to] = lowBits(low[0], low[1]);
  out[to + 1] = highBits(low[0], low[1]);
  out[to + 2] = lowBits(high[0], high[1]);
  out[to + 3] = highBits(high[0], high[1]);
}

/** Some words as they are. */
export function moveWords(
  out: Uint32Array,
  { view, at, to, count }: Move & { count: number },
): void {
  for (let i = 0; i < count; i++) out[to + i] = view.getInt32(at + 4 * i, true);
}

/** Twelve bytes of eight six-bit scales and as many minima (Q4_K, Q5_K): each block gets a byte of both. */
export function moveSixBits(out: Uint32Array, { view, at, to }: Move): void {
  const a = view.getInt32(at, true);
  const b = view.getInt32(at + 4, true);
  const c = view.getInt32(at + 8, true);
  moveBytePairs(out, { to, first: a & 0x3f3f3f3f, second: b & 0x3f3f3f3f });
  moveBytePairs(out, {
    to: to + 2,
    first: (c & 0x0f0f0f0f) | ((a >>> 2) & 0x30303030),
    second: ((c >>> 4) & 0x0f0f0f0f) | ((b >>> 2) & 0x30303030),
  });
}

function moveBytePairs(
  out: Uint32Array,
  { to, first, second }: { to: number; first: number; second: number },
): void {
  out[to] = (first & 0xff) | ((second & 0xff) << 8) | ((first & 0xff00) << 8) |
    ((second & 0xff00) << 16);
  out[to + 1] = ((first >>> 16) & 0xff) | ((second >>> 8) & 0xff00) | ((first >>> 8) & 0xff0000) |
    (second & 0xff000000);
}

/** Twelve bytes of sixteen six-bit scales (Q3_K): a byte each, as in the file 32 too large. */
export function moveSixteenScales(out: Uint32Array, { view, at, to }: Move): void {
  const a = view.getInt32(at, true);
  const b = view.getInt32(at + 4, true);
  const upper = view.getInt32(at + 8, true);
  out[to] = (a & 0x0f0f0f0f) | ((upper << 4) & 0x30303030);
  out[to + 1] = (b & 0x0f0f0f0f) | ((upper << 2) & 0x30303030);
  out[to + 2] = ((a >>> 4) & 0x0f0f0f0f) | (upper & 0x30303030);
  out[to + 3] = ((b >>> 4) & 0x0f0f0f0f) | ((upper >>> 2) & 0x30303030);
}
