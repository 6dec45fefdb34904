/** Exact fractions. */

export interface Rational {
  readonly over: bigint;
  /** Above 0; the fraction is in lowest terms. */
  readonly under: bigint;
}

export function rational(over: bigint, under = 1n): Rational {
  const sign = under < 0n ? -1n : 1n;
  const divisor = greatestCommonDivisor(over < 0n ? -over : over, under * sign);
  return { over: sign * over / divisor, under: sign * under / divisor };
}

function greatestCommonDivisor(a: bigint, b: bigint): bigint {
  while (b > 0n) [a, b] = [b, a % b];
  return a === 0n ? 1n : a;
}

/** `12`, `-3.50`, `1,250`; null for anything else, and for more than thirty digits. */
export function parseRational(text: string): Rational | null {
  const match = /^([-−]?)(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d+))?$/.exec(text);
  if (match === null || text.length > 30) return null;
  const decimals = match[3] ?? "";
  const digits = BigInt(match[2].replaceAll(",", "") + decimals);
  return rational(match[1] === "" ? digits : -digits, 10n ** BigInt(decimals.length));
}

export function add(a: Rational, b: Rational): Rational {
  return rational(a.over * b.under + b.over * a.under, a.under * b.under);
}

export function subtract(a: Rational, b: Rational): Rational {
  return rational(a.over * b.under - b.over * a.under, a.under * b.under);
}

export function multiply(a: Rational, b: Rational): Rational {
  return rational(a.over * b.over, a.under * b.under);
}

/** Null where `b` is zero. */
export function divide(a: Rational, b: Rational): Rational | null {
  return b.over === 0n ? null : rational(a.over * b.under, a.under * b.over);
}

/** Below 0, 0 or above 0, as `a` is below, equal to or above `b`. */
export function compare(a: Rational, b: Rational): number {
  const difference = a.over * b.under - b.over * a.under;
  return difference < 0n ? -1 : difference > 0n ? 1 : 0;
}

export function equal(a: Rational, b: Rational): boolean {
  return compare(a, b) === 0;
}
