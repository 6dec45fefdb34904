/** Arithmetic as text: tokens, and the exact value of an expression. */

import {
  add,
  divide,
  multiply,
  parseRational,
  type Rational,
  rational,
  subtract,
} from "./rational.ts";

/** A part of a line: what belongs to arithmetic is told apart from words. */
export interface Token {
  readonly kind: "number" | "operator" | "open" | "close" | "relation" | "word";
  readonly text: string;
}

/** `~58` is 85: digits from the ones up. An x between numbers multiplies. */
const TOKEN =
  /(~\d+|\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?|(?<![\w.])\.\d+)|([-−+*/×÷·]|(?<=[\d)] ?)x(?= ?\$?[\d(]))|(\()|(\))|([=<>])|\$|\s+|([^\s\d])/gu;
const KINDS = ["number", "operator", "open", "close", "relation", "word"] as const;

/** The tokens of a text. Spaces and currency signs are left out. */
export function tokensOf(text: string): Token[] {
  const tokens: Token[] = [];
  for (const match of text.matchAll(TOKEN)) {
    const group = KINDS.findIndex((_, i) => match[i + 1] !== undefined);
    if (group >= 0) tokens.push({ kind: KINDS[group], text: match[0] });
  }
  return tokens;
}

/** The number that a token stands for; null where it is too long. */
export function numberOf(text: string): Rational | null {
  if (text.startsWith("~")) return parseRational([...text.slice(1)].reverse().join(""));
  return parseRational(text.startsWith(".") ? `0${text}` : text);
}

/** Values that are longer than this aren't worked out: a text could make the digits endless. */
const MAX_BITS = 256n;

/**
 * The value of tokens that are one whole expression of + - * / and parentheses; null where they are
 * not, and where something is divided by zero.
 */
export function evaluate(tokens: readonly Token[]): Rational | null {
  const reader = new ExpressionReader(tokens);
  const value = reader.sum(0);
  return value !== null && reader.isDone ? value : null;
}

/** The value of a text, by the same rules. */
export function evaluateText(text: string): Rational | null {
  return evaluate(tokensOf(text));
}

const MAX_DEPTH = 32;

class ExpressionReader {
  readonly #tokens: readonly Token[];
  #at = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  get isDone(): boolean {
    return this.#at === this.#tokens.length;
  }

  #take(kind: Token["kind"], texts: string): string | null {
    const token = this.#tokens[this.#at];
    if (token?.kind !== kind || !texts.includes(token.text)) return null;
    this.#at++;
    return token.text;
  }

  sum(depth: number): Rational | null {
    let value = this.#product(depth);
    while (value !== null) {
      const operator = this.#take("operator", "+-−");
      if (operator === null) break;
      const right = this.#product(depth);
      if (right === null) return null;
      value = bounded(operator === "+" ? add(value, right) : subtract(value, right));
    }
    return value;
  }

  #product(depth: number): Rational | null {
    let value = this.#factor(depth);
    while (value !== null) {
      const operator = this.#take("operator", "*/×÷·x");
      if (operator === null) break;
      const right = this.#factor(depth);
      if (right === null) return null;
      const divides = operator === "/" || operator === "÷";
      value = bounded(divides ? divide(value, right) : multiply(value, right));
    }
    return value;
  }

  #factor(depth: number): Rational | null {
    if (depth > MAX_DEPTH) return null;
    if (this.#take("operator", "-−") !== null) {
      const value = this.#factor(depth + 1);
      return value === null ? null : rational(-value.over, value.under);
    }
    if (this.#take("open", "(") !== null) {
      const value = this.sum(depth + 1);
      return this.#take("close", ")") === null ? null : value;
    }
    const token = this.#tokens[this.#at];
    if (token?.kind !== "number") return null;
    this.#at++;
    return numberOf(token.text);
  }
}

function bounded(value: Rational | null): Rational | null {
  if (value === null) return null;
  const limit = 1n << MAX_BITS;
  return value.over > -limit && value.over < limit && value.under < limit ? value : null;
}
