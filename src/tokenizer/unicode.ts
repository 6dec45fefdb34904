/** Unicode categories as the pre-tokenisers ask for them: one byte of flags per UTF-16 unit. */

export const LETTER = 1;
export const NUMBER = 2;
export const SPACE = 4;
export const MARK = 8;
export const PUNCTUATION = 16;
export const SYMBOL = 32;
/** Carriage return and line feed; they are SPACE too. */
export const NEWLINE = 64;

const PAGE = 256;

function flagsOf(codePoint: number): number {
  if (codePoint === 10 || codePoint === 13) return NEWLINE | SPACE;
  const char = String.fromCodePoint(codePoint);
  if (/\p{L}/u.test(char)) return LETTER;
  if (/\p{N}/u.test(char)) return NUMBER;
  // Not \s: JavaScript's counts U+FEFF and leaves out U+0085.
  if (/\p{White_Space}/u.test(char)) return SPACE;
  if (/\p{M}/u.test(char)) return MARK;
  if (/\p{P}/u.test(char)) return PUNCTUATION;
  if (/\p{S}/u.test(char)) return SYMBOL;
  return 0;
}

/** Looks categories up in pages of 256 code points that are made when a text first needs them. */
export class CategoryTable {
  readonly #pages: (Uint8Array | undefined)[] = new Array(0x110000 / PAGE);

  /**
   * Writes the flags of units [from, to) of well-formed `text` to `out` at the same indices. Both
   * halves of a surrogate pair get the character's flags; a pair that `to` would cut is left out.
   * Returns the index behind the last unit written.
   */
  fill(text: string, range: { from: number; to: number; out: Uint8Array }): number {
    const { to, out } = range;
    const pages = this.#pages;
    let i = range.from;
    while (i < to) {
      const unit = text.charCodeAt(i);
      if (unit >= 0xd800 && unit < 0xe000) {
        if (i + 1 >= to && to < text.length) break;
        const codePoint = text.codePointAt(i)!;
        const flags = (pages[codePoint >> 8] ?? this.#page(codePoint >> 8))[codePoint & 255];
        out[i] = flags;
        out[i + 1] = flags;
        i += 2;
      } else {
        out[i] = (pages[unit >> 8] ?? this.#page(unit >> 8))[unit & 255];
        i++;
      }
    }
    return i;
  }

  #page(index: number): Uint8Array {
    const page = new Uint8Array(PAGE);
    for (let i = 0; i < PAGE; i++) page[i] = flagsOf(index * PAGE + i);
    this.#pages[index] = page;
    return page;
  }
}

/** A set of code points given as a character class without brackets or escapes, "a-z0-9_" say. */
export class CodePointSet {
  /** Sorted, alternating first and last code points. */
  readonly #bounds: Uint32Array;

  constructor(ranges: string) {
    const points = Array.from(ranges, (char) => char.codePointAt(0)!);
    const pairs: [number, number][] = [];
    for (let i = 0; i < points.length; i++) {
      const isRange = points[i + 1] === 0x2d && i + 2 < points.length;
      pairs.push([points[i], points[isRange ? i + 2 : i]]);
      if (isRange) i += 2;
    }
    pairs.sort((a, b) => a[0] - b[0]);
    this.#bounds = Uint32Array.from(pairs.flat());
  }

  has(codePoint: number): boolean {
    const bounds = this.#bounds;
    let low = 0;
    let high = bounds.length >> 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (bounds[2 * middle + 1] < codePoint) low = middle + 1;
      else high = middle;
    }
    return 2 * low < bounds.length && bounds[2 * low] <= codePoint;
  }
}
