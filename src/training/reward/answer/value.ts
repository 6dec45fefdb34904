/** Numbers as people and LaTeX write them: `1,250`, `-3.50`, `3/4`, `1 1/2`, `\frac{3}{4}`, `$72`, `40 %`, `12 cm`. */

import { UNITS } from "../../data/checkers/quantities.ts";
import {
  add,
  compare,
  divide,
  equal,
  multiply,
  parseRational,
  type Rational,
  rational,
  subtract,
} from "../../data/checkers/rational.ts";

export interface Value {
  readonly number: Rational;
  /** "" where there is none. */
  readonly unit: string;
  readonly isPercent: boolean;
  /** Digits behind the point. */
  readonly decimals: number;
  /** A division that is left to do, or a fraction. */
  readonly isFraction: boolean;
}

const MAX_TEXT = 100;

const NUMBER = String.raw`\d{1,3}(?:[, ]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+`;
const UNIT = String.raw`[\p{L}°][\p{L}°²³/ ]*(?:\^[23])?`;
const VALUE = new RegExp(
  String
    .raw`^([-−+]?) ?([$€£]?) ?([-−]?)(${NUMBER})(?: ?/ ?(${NUMBER})| (\d+) ?/ ?(\d+))? ?(%|percent\b)? ?(${UNIT})?$`,
  "u",
);
const SCIENTIFIC =
  /^([-−]?\d+(?:\.\d+)?) ?(?:×|\*|x|\\times|\\cdot) ?10 ?\^ ?\{?([-−]?\d{1,2})\}?$/;

/** A number with what may stand around it, or null where the text is not one number alone. */
export function readValue(text: string): Value | null {
  if (text.length > MAX_TEXT) return null;
  const plain = withoutLatex(text).replace(/\.$/, "").trim();
  const scientific = SCIENTIFIC.exec(plain);
  if (scientific !== null) return readScientific(scientific);
  const match = VALUE.exec(plain);
  if (match === null) return null;
  const [, sign, currency, inner, first, under, over2, under2, percent, unit = ""] = match;
  const parts = [first, under ?? "1", over2 ?? "0", under2 ?? "1"].map(numberOf);
  if (parts.some((part) => part === null)) return null;
  const [whole, divisor, extraOver, extraUnder] = parts as Rational[];
  const [quotient, extra] = [divide(whole, divisor), divide(extraOver, extraUnder)];
  if (quotient === null || extra === null) return null;
  const size = add(quotient, extra);
  const isNegative = /[-−]/.test(sign) !== /[-−]/.test(inner);
  return {
    number: isNegative ? subtract(rational(0n), size) : size,
    unit: unit.trim() || (currency === "" ? "" : CURRENCIES[currency]),
    isPercent: percent !== undefined,
    decimals: /\.(\d+)$/.exec(first)?.[1].length ?? 0,
    isFraction: under !== undefined || under2 !== undefined,
  };
}

const CURRENCIES: Readonly<Record<string, string>> = {
  "$": "dollars",
  "€": "euros",
  "£": "pounds",
};

function numberOf(text: string): Rational | null {
  return parseRational(text.startsWith(".") ? `0${text}` : text.replaceAll(" ", ""));
}

function readScientific([, factor, exponent]: RegExpExecArray): Value | null {
  const number = parseRational(factor);
  const power = Number(exponent.replace("−", "-"));
  const scale = 10n ** BigInt(Math.abs(power));
  return number && {
    number: multiply(number, power < 0 ? rational(1n, scale) : rational(scale)),
    ...{ unit: "", isPercent: false, decimals: 0, isFraction: false },
  };
}

/** LaTeX's ways to write what is plain text otherwise. */
function withoutLatex(text: string): string {
  return text.trim()
    .replace(/^\\\((.*)\\\)$/s, "$1")
    .replace(/^(\$\$?)([^$]+)\1$/, "$2")
    .replaceAll("{,}", ",")
    .replace(/\\[,!;: ]/g, "")
    .replace(/\\(?:text|mathrm|mbox|textbf|mathbf)\{([^{}]*)\}/g, " $1")
    .replace(/\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}/g, " $1/$2")
    .replace(/\\[dt]?frac(\d)(\d)/g, " $1/$2")
    .replace(/\^\{?\\circ\}?/g, " °")
    .replace(/\\([%$])/g, "$1")
    .replace(/\s+/g, " ")
    .replace(/^([-−+]) (?=\d)/, "$1")
    .trim();
}

/** Whether a given value is the expected one: in number, and in unit where both have one. */
export function valuesAgree(given: Value, expected: Value): boolean {
  const units = [given.unit, expected.unit];
  if (units.every((unit) => unit !== "") && !sameUnit(units[0], units[1])) return false;
  const hundredth = multiply(given.number, rational(1n, 100n));
  if (given.isPercent && !expected.isPercent && isClose(hundredth, { expected, given })) {
    return true;
  }
  if (!given.isPercent && expected.isPercent) {
    const scaled = multiply(given.number, rational(100n));
    if (equal(scaled, expected.number)) return true;
  }
  return isClose(given.number, { expected, given });
}

/** Equal, or rounded to at least two decimals where no decimals would be exact. */
function isClose(
  number: Rational,
  { expected, given }: { expected: Value; given: Value },
): boolean {
  if (equal(number, expected.number)) return true;
  if (given.isPercent || given.decimals < 2 || isExactDecimal(expected.number)) return false;
  const half = rational(1n, 2n * 10n ** BigInt(given.decimals));
  return compare(subtract(expected.number, half), number) <= 0 &&
    compare(number, add(expected.number, half)) <= 0;
}

function isExactDecimal({ under }: Rational): boolean {
  let rest = under;
  for (const prime of [2n, 5n]) while (rest % prime === 0n) rest /= prime;
  return rest === 1n;
}

function sameUnit(a: string, b: string): boolean {
  const [first, second] = [a, b].map((unit) => unit.toLowerCase().replace(/\s+/g, " "));
  const [x, y] = [UNITS.get(first), UNITS.get(second)];
  if (x !== undefined && y !== undefined) return x[0] === y[0] && x[1] === y[1];
  return first.replace(/s$/, "") === second.replace(/s$/, "");
}
