/**
 * Written arithmetic: each operation becomes a line of claims that are small enough to be learnt one by
 * one and checked one by one. `docs/data.md` shows the four notations side by side.
 */

/**
 * `columns`: digit by digit from the ones, carrying. `place`: by place value. `reversed`: one claim with
 * the digits of every number written from the ones up, marked by `~`. `plain`: one claim as it is.
 */
export const NOTATIONS = ["columns", "place", "reversed", "plain"] as const;
export type Notation = typeof NOTATIONS[number];

/** Digits of a whole number from the ones up. */
function digitsOf(value: number): number[] {
  return [...String(value)].reverse().map(Number);
}

function reversedText(value: number): string {
  return value < 0 ? `-${reversedText(-value)}` : `~${digitsOf(value).join("")}`;
}

/** The places of a number that aren't zero, from the highest: 407 is 400 and 7. */
function placesOf(value: number): number[] {
  return digitsOf(value).map((digit, place) => digit * 10 ** place).filter((part) => part > 0)
    .reverse();
}

function isPowerOfTen(value: number): boolean {
  return /^10*$/.test(String(value));
}

/** Takes down a calculation with whole numbers of at least 0 and gives its results. */
export class Working {
  readonly lines: string[] = [];
  readonly #notation: Notation;

  constructor(notation: Notation) {
    this.#notation = notation;
  }

  /** Adds a line as it is. */
  line(text: string): void {
    this.lines.push(text);
  }

  /** Adds a line of claims with what they work out in front. */
  #claims(task: string, claims: readonly string[]): void {
    this.line(claims.length === 1 ? claims[0] : `${task}: ${claims.join("; ")}`);
  }

  add(a: number, b: number): number {
    const sum = a + b;
    const task = `${a} + ${b}`;
    const whole = `${task} = ${sum}`;
    if (this.#notation === "reversed") {
      this.line(`${reversedText(a)} + ${reversedText(b)} = ${reversedText(sum)}`);
    } else if (this.#notation === "plain" || (a < 10 && b < 10)) this.line(whole);
    else if (this.#notation === "columns") this.#claims(task, [...columnSums(a, b), whole]);
    else this.#claims(task, placeSums(a, b));
    return sum;
  }

  /** a - b; where b is larger the difference is worked out the other way round. */
  subtract(a: number, b: number): number {
    if (b > a) {
      const difference = this.subtract(b, a);
      this.line(`${a} - ${b} = -${difference}`);
      return -difference;
    }
    const difference = a - b;
    const task = `${a} - ${b}`;
    const whole = `${task} = ${difference}`;
    if (this.#notation === "reversed") {
      this.line(`${reversedText(a)} - ${reversedText(b)} = ${reversedText(difference)}`);
    } else if (this.#notation === "plain" || a < 10) this.line(whole);
    else if (this.#notation === "columns") this.#claims(task, [...columnDifferences(a, b), whole]);
    else this.#claims(task, placeDifferences(a, b));
    return difference;
  }

  /** Partial products by place value, summed one after the other. */
  multiply(a: number, b: number): number {
    const product = a * b;
    const whole = `${a} * ${b} = ${product}`;
    const [longer, shorter] = a >= b ? [a, b] : [b, a];
    const isFact = longer < 10 || shorter < 2 || isPowerOfTen(longer) || isPowerOfTen(shorter) ||
      (placesOf(longer).length === 1 && shorter < 10);
    if (this.#notation === "plain" || isFact) {
      this.line(whole);
      return product;
    }
    const outer = placesOf(shorter);
    if (outer.length === 1) {
      const digit = shorter < 10 ? shorter : Number(String(shorter)[0]);
      this.#multiplyByDigit(longer, digit);
      if (shorter >= 10) this.line(`${longer} * ${shorter} = ${product}`);
    } else this.#sumUp(outer.map((part) => this.multiply(longer, part)));
    if (this.lines.at(-1) !== whole) this.line(whole);
    return product;
  }

  #multiplyByDigit(number: number, digit: number): void {
    const parts = placesOf(number);
    const products = parts.map((part) => part * digit);
    const claims = parts.map((part, i) => `${part} * ${digit} = ${products[i]}`);
    this.#claims(`${number} * ${digit}`, claims);
    if (parts.length > 1) {
      this.#sumUp(products);
      this.line(`${number} * ${digit} = ${number * digit}`);
    }
  }

  #sumUp(terms: readonly number[]): void {
    terms.reduce((sum, term) => this.add(sum, term));
  }

  /** Long division: one claim for each digit of the quotient, then the whole. */
  divide(a: number, b: number): { quotient: number; remainder: number } {
    const quotient = Math.floor(a / b);
    const remainder = a % b;
    const claims: string[] = [];
    let rest = 0;
    let begun = false;
    for (const digit of this.#notation === "plain" ? [] : digitsOf(a).reverse()) {
      const part = rest * 10 + digit;
      rest = part % b;
      begun ||= part >= b;
      if (begun) claims.push(`${part} = ${b} * ${Math.floor(part / b)} + ${rest}`);
    }
    const whole = `${a} = ${b} * ${quotient} + ${remainder}`;
    if (claims.at(-1) !== whole) claims.push(whole);
    if (remainder === 0) claims.push(`${a} / ${b} = ${quotient}`);
    this.#claims(`${a} / ${b}`, claims);
    return { quotient, remainder };
  }
}

/** `47 + 38`: `7 + 8 = 15`, `4 + 3 + 1 = 8`. */
function columnSums(a: number, b: number): string[] {
  const [x, y] = [digitsOf(a), digitsOf(b)];
  let carry = 0;
  return Array.from({ length: Math.max(x.length, y.length) }, (_, i) => {
    const terms = [x[i] ?? 0, y[i] ?? 0, ...(carry > 0 ? [carry] : [])];
    const sum = terms.reduce((total, term) => total + term, 0);
    carry = sum >= 10 ? 1 : 0;
    return `${terms.join(" + ")} = ${sum}`;
  });
}

/** `62 - 38`: `12 - 8 = 4`, `6 - 1 - 3 = 2`: ten is borrowed first, and paid back in the next column. */
function columnDifferences(a: number, b: number): string[] {
  const [x, y] = [digitsOf(a), digitsOf(b)];
  let borrowed = 0;
  return x.map((digit, i) => {
    const taken = [...(borrowed > 0 ? [borrowed] : []), y[i] ?? 0];
    const less = taken.reduce((total, term) => total + term, 0);
    const top = digit < less ? digit + 10 : digit;
    borrowed = digit < less ? 1 : 0;
    return `${[top, ...taken].join(" - ")} = ${top - less}`;
  });
}

/** `47 + 38`: `40 + 30 = 70`, `7 + 8 = 15`, `70 + 15 = 85`; the last claim is the sum of the parts. */
function placeSums(a: number, b: number): string[] {
  const [x, y] = [digitsOf(a), digitsOf(b)];
  const claims: string[] = [];
  const sums: number[] = [];
  for (let i = Math.max(x.length, y.length) - 1; i >= 0; i--) {
    const [left, right] = [(x[i] ?? 0) * 10 ** i, (y[i] ?? 0) * 10 ** i];
    if (left + right === 0) continue;
    claims.push(`${left} + ${right} = ${left + right}`);
    sums.push(left + right);
  }
  sums.reduce((sum, term) => {
    claims.push(`${sum} + ${term} = ${sum + term}`);
    return sum + term;
  });
  const whole = `${a} + ${b} = ${a + b}`;
  return claims.at(-1) === whole ? claims : [...claims, whole];
}

/** `62 - 38`: `62 - 30 = 32`, `32 - 8 = 24`. */
function placeDifferences(a: number, b: number): string[] {
  const whole = `${a} - ${b} = ${a - b}`;
  const claims: string[] = [];
  placesOf(b).reduce((rest, part) => {
    claims.push(`${rest} - ${part} = ${rest - part}`);
    return rest - part;
  }, a);
  return claims.at(-1) === whole ? claims : [...claims, whole];
}
