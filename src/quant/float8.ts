/**
 * Eight-bit floats with four exponent bits and three mantissa bits (e4m3fn: Micikevicius et al. 2022,
 * "FP8 formats for deep learning"): no infinities; 0x7f and 0xff are NaN.
 */

/** float32 value of every e4m3 byte. */
const VALUES = buildValues();

/** The value of an e4m3 byte. */
export function e4m3ToF32(byte: number): number {
  return VALUES[byte];
}

/** Our block of a scaled FP8 matrix: a factor (float32, little-endian), then 32 e4m3 bytes. */
export function dequantizeF8_E4M3(bytes: Uint8Array, out: Float32Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0, o = 0; o < out.length; at += 36, o += 32) {
    const factor = view.getFloat32(at, true);
    for (let j = 0; j < 32; j++) out[o + j] = VALUES[bytes[at + 4 + j]] * factor;
  }
}

function buildValues(): Float32Array {
  return Float32Array.from({ length: 256 }, (_, byte) => {
    const exponent = (byte >> 3) & 15;
    const mantissa = byte & 7;
    const sign = byte & 128 ? -1 : 1;
    if (exponent === 15 && mantissa === 7) return NaN;
    if (exponent === 0) return sign * mantissa * 2 ** -9;
    return sign * (1 + mantissa / 8) * 2 ** (exponent - 7);
  });
}
