/**
 * The alphabet in which byte-level vocabularies write bytes as printable characters: bytes that
 * print in Latin-1 stand for themselves, the other 68 follow from U+0100 on in ascending order.
 */

function prints(byte: number): boolean {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/** UTF-16 unit to byte, -1 for units outside the alphabet; the last letter is U+0143. */
const BYTE_OF_UNIT: Int16Array = (() => {
  const table = new Int16Array(0x144).fill(-1);
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) table[prints(byte) ? byte : next++] = byte;
  return table;
})();

/**
 * Writes the bytes that `text` stands for to `out` at `offset` and returns the offset behind them;
 * -1 where a character is not in the alphabet. `out` must have room for `text.length` bytes.
 */
export function writeAlphabetBytes(
  text: string,
  target: { out: Uint8Array; offset: number; from?: number; to?: number },
): number {
  const { out } = target;
  const to = target.to ?? text.length;
  let offset = target.offset;
  for (let i = target.from ?? 0; i < to; i++) {
    const unit = text.charCodeAt(i);
    const byte = unit < BYTE_OF_UNIT.length ? BYTE_OF_UNIT[unit] : -1;
    if (byte < 0) return -1;
    out[offset++] = byte;
  }
  return offset;
}

/**
 * The same for a text that is given as UTF-8: rewrites bytes [from, to) at `offset`, which must not lie
 * behind `from`, and returns the offset behind the last one, or -1.
 */
export function decodeAlphabetInPlace(
  bytes: Uint8Array,
  range: { from: number; to: number; offset: number },
): number {
  const { to } = range;
  let offset = range.offset;
  for (let i = range.from; i < to; i++) {
    let unit = bytes[i];
    if (unit >= 0x80) {
      // Every letter of the alphabet above ASCII has two bytes, the first from C2 to C5.
      const second = i + 1 < to ? bytes[i + 1] : 0;
      if (unit < 0xc2 || unit > 0xc5 || (second & 0xc0) !== 0x80) return -1;
      unit = ((unit & 0x1f) << 6) | (second & 0x3f);
      i++;
    }
    const byte = unit < BYTE_OF_UNIT.length ? BYTE_OF_UNIT[unit] : -1;
    if (byte < 0) return -1;
    bytes[offset++] = byte;
  }
  return offset;
}

/** The letters of the alphabet by byte. */
export function byteLetters(): string[] {
  const letters: string[] = [];
  for (let unit = 0; unit < BYTE_OF_UNIT.length; unit++) {
    if (BYTE_OF_UNIT[unit] >= 0) letters[BYTE_OF_UNIT[unit]] = String.fromCharCode(unit);
  }
  return letters;
}
