/** IEEE half precision and bfloat16 to and from float32, with round-half-to-even. */

/** One float32 seen as its bits; each use writes it before it reads, so that it keeps nothing. */
const FLOAT = new Float32Array(1);
const BITS = new Uint32Array(FLOAT.buffer);

/** float32 value of every half: all quantised types look their scales up here. */
const HALF_VALUES = buildHalfValues();

/** The value of a half-precision bit pattern (0..65535). */
export function f16ToF32(bits: number): number {
  return HALF_VALUES[bits];
}

/** The half-precision bit pattern nearest to a value (first rounded to float32). NaN becomes 0x7e00. */
export function f32ToF16(value: number): number {
  FLOAT[0] = value;
  const bits = BITS[0];
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  // From 65520 on, the nearest half is infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    // A normal half: drop 13 bits with the exponent rebiased from 127 to 15.
    return sign | roundShift(magnitude - 0x38000000, 13);
  }
  // Below 2^-25 (and at the tie 2^-25 itself) the nearest half is zero.
  if (magnitude <= 0x33000000) return sign;
  // A subnormal half counts units of 2^-24.
  const exponent = magnitude >>> 23;
  return sign | roundShift((magnitude & 0x7fffff) | 0x800000, 126 - exponent);
}

/** The value of a bfloat16 bit pattern (0..65535). */
export function bf16ToF32(bits: number): number {
  BITS[0] = bits << 16;
  return FLOAT[0];
}

/** The bfloat16 bit pattern nearest to a value. NaN keeps its sign and becomes quiet. */
export function f32ToBf16(value: number): number {
  FLOAT[0] = value;
  const bits = BITS[0];
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** value / 2^shift, rounded half to even. */
function roundShift(value: number, shift: number): number {
  const half = 2 ** (shift - 1);
  const odd = (value >>> shift) & 1;
  return (value + half - 1 + odd) >>> shift;
}

function buildHalfValues(): Float32Array {
  const values = new Float32Array(65_536);
  const bits = new Uint32Array(values.buffer);
  for (let half = 0; half < 65_536; half++) {
    const sign = (half & 0x8000) * 65_536;
    const exponent = (half >> 10) & 31;
    const mantissa = half & 0x3ff;
    if (exponent === 31) bits[half] = sign + 0x7f800000 + mantissa * 8192;
    else if (exponent > 0) bits[half] = sign + (exponent + 112) * 2 ** 23 + mantissa * 8192;
    else {
      values[half] = mantissa * 2 ** -24;
      bits[half] += sign;
    }
  }
  return values;
}
