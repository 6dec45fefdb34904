/** A hash of texts and numbers that is the same on every machine, for splits, filters and seeds. */

/** The finaliser of MurmurHash3 (Appleby 2011): every bit of the input changes half of the output's. */
export function mix32(value: number): number {
  let h = value;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** Two 32-bit lanes as a number below 2^53. */
export function joinLanes(high: number, low: number): number {
  return (high & 0x1fffff) * 2 ** 32 + (low >>> 0);
}

/** 53 bits of a text's UTF-16 units. Not for adversaries: whoever wants collisions finds them. */
export function hashText(text: string, seed = 0): number {
  let high = mix32(seed ^ 0x2545f491);
  let low = mix32(seed ^ 0x6a09e667);
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    high = Math.imul(high ^ unit, 0x01000193);
    high = (high << 13) | (high >>> 19);
    low = Math.imul(low ^ unit, 0x9e3779b1);
    low = (low << 7) | (low >>> 25);
  }
  return joinLanes(mix32(high ^ text.length ^ low), mix32(low ^ Math.imul(high, 5)));
}

/** 53 bits of a run of 32-bit words. */
export function hashWords(words: Uint32Array, range: { from: number; to: number }): number {
  let high = 0x2545f491;
  let low = 0x6a09e667;
  for (let i = range.from; i < range.to; i++) {
    high = mix32(high ^ words[i]);
    low = mix32(Math.imul(low, 31) + words[i]);
  }
  return joinLanes(high, low);
}

/** Where a key lies in [0, 1), evenly spread. */
export function shareOf(key: string, seed: number): number {
  return hashText(key, seed) / 2 ** 53;
}
