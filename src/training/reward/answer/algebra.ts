/**
 * Whether two short expressions are the same, by their values at two random points of a prime field
 * (Schwartz 1980): different ones of this size agree there about once in 10^34. Roots of what is no
 * square are unknowns like letters, so `2\sqrt{3}` is `\sqrt{12}`, but `\sqrt{2}\sqrt{3}` is not `\sqrt{6}`.
 */

import { hashText } from "../../data/hash.ts";

/** The Mersenne prime 2^61 - 1. */
const PRIME = 2n ** 61n - 1n;
const MAX_TEXT = 200;
const MAX_DEPTH = 32;
const MAX_EXPONENT = 64;

type Node =
  | { readonly kind: "number"; readonly value: bigint; readonly under: bigint }
  | { readonly kind: "name"; readonly name: string }
  | { readonly kind: "root"; readonly of: Node }
  | { readonly kind: "negative"; readonly of: Node }
  | { readonly kind: "power"; readonly base: Node; readonly exponent: number }
  | { readonly kind: "+" | "-" | "*" | "/"; readonly left: Node; readonly right: Node };

const TOKEN =
  /\s+|\\(?:left|right|[,!;: ])|(\d+(?:\.\d+)?|\.\d+)|(\\?[a-zA-Z]+)|([-−+*/^(){}[\]×÷·√π])|(.)/gsu;

/** Names that are words in LaTeX and unknowns here. */
const WORDS = ["pi", "theta", "alpha", "beta", "infty"];

interface Token {
  readonly kind: "number" | "name" | "sign";
  readonly text: string;
}

/** Letters one by one, since `xy` is a product; null where a character belongs to no expression. */
function tokensOf(text: string): Token[] | null {
  const tokens: Token[] = [];
  for (const [, number, word, sign, other] of text.matchAll(TOKEN)) {
    if (other !== undefined) return null;
    if (number !== undefined) tokens.push({ kind: "number", text: number });
    if (sign !== undefined) tokens.push({ kind: "sign", text: sign });
    if (word === undefined) continue;
    const name = word.replace(/^\\/, "");
    const isCommand = /^(?:[dt]?frac|sqrt|cdot|times|div)$/.test(name);
    if (isCommand || WORDS.includes(name)) tokens.push({ kind: "name", text: name });
    else if (word.startsWith("\\") || name.length > 3) return null;
    else tokens.push(...[...name].map((letter): Token => ({ kind: "name", text: letter })));
  }
  return tokens;
}

const SUMS = new Set(["+", "-", "−"]);
const PRODUCTS: Readonly<Record<string, "*" | "/">> = {
  ...{ "*": "*", "×": "*", "·": "*", cdot: "*", times: "*" },
  ...{ "/": "/", "÷": "/", div: "/" },
};
const CLOSING: Readonly<Record<string, string>> = { "(": ")", "{": "}", "[": "]" };

class NotAnExpression extends Error {}

class Parser {
  readonly #tokens: readonly Token[];
  #at = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  whole(): Node {
    const node = this.#sum(0);
    if (this.#at < this.#tokens.length) throw new NotAnExpression();
    return node;
  }

  #next(): string | undefined {
    return this.#tokens[this.#at]?.text;
  }

  #sum(depth: number): Node {
    let left = this.#product(depth);
    for (let sign = this.#next(); sign !== undefined && SUMS.has(sign); sign = this.#next()) {
      this.#at++;
      left = { kind: sign === "+" ? "+" : "-", left, right: this.#product(depth) };
    }
    return left;
  }

  #product(depth: number): Node {
    let left = this.#signed(depth);
    while (true) {
      const text = this.#next();
      if (text === undefined || SUMS.has(text) || /^[)}\]^]$/.test(text)) return left;
      const kind = Object.hasOwn(PRODUCTS, text) ? PRODUCTS[text] : undefined;
      if (kind !== undefined) this.#at++;
      left = { kind: kind ?? "*", left, right: this.#signed(depth) };
    }
  }

  #signed(depth: number): Node {
    if (depth > MAX_DEPTH) throw new NotAnExpression();
    const text = this.#next();
    if (text === undefined || !SUMS.has(text)) return this.#power(depth);
    this.#at++;
    const of = this.#signed(depth + 1);
    return text === "+" ? of : { kind: "negative", of };
  }

  #power(depth: number): Node {
    const base = this.#atom(depth);
    if (this.#next() !== "^") return base;
    this.#at++;
    const exponent = wholeNumber(this.#signed(depth + 1));
    if (exponent === null || Math.abs(exponent) > MAX_EXPONENT) throw new NotAnExpression();
    return { kind: "power", base, exponent };
  }

  #atom(depth: number): Node {
    const token = this.#tokens[this.#at++];
    if (token === undefined || depth > MAX_DEPTH) throw new NotAnExpression();
    const { kind, text } = token;
    if (kind === "number") return numberNode(text);
    if (Object.hasOwn(CLOSING, text)) {
      const inner = this.#sum(depth + 1);
      if (this.#tokens[this.#at++]?.text !== CLOSING[text]) throw new NotAnExpression();
      return inner;
    }
    if (/^[dt]?frac$/.test(text)) {
      return { kind: "/", left: this.#atom(depth + 1), right: this.#atom(depth + 1) };
    }
    if (text === "sqrt" || text === "√") return { kind: "root", of: this.#atom(depth + 1) };
    if (kind === "sign" && text !== "π") throw new NotAnExpression();
    return { kind: "name", name: text === "π" ? "pi" : text };
  }
}

function numberNode(text: string): Node {
  const [whole, decimals = ""] = text.split(".");
  return { kind: "number", value: BigInt(whole + decimals), under: 10n ** BigInt(decimals.length) };
}

function wholeNumber(node: Node): number | null {
  if (node.kind === "negative") {
    const value = wholeNumber(node.of);
    return value === null ? null : -value;
  }
  return node.kind === "number" && node.under === 1n ? Number(node.value) : null;
}

function power(base: bigint, exponent: bigint): bigint {
  let [result, square] = [1n, base];
  for (let rest = exponent; rest > 0n; rest >>= 1n) {
    if (rest & 1n) result = result * square % PRIME;
    square = square * square % PRIME;
  }
  return result;
}

function inverse(value: bigint): bigint {
  if (value === 0n) throw new NotAnExpression();
  return power(value, PRIME - 2n);
}

function positive(value: bigint): bigint {
  const rest = value % PRIME;
  return rest < 0n ? rest + PRIME : rest;
}

function valueAt(node: Node, point: number): bigint {
  switch (node.kind) {
    case "number":
      return positive(node.value * inverse(positive(node.under)));
    case "name":
      return BigInt(hashText(node.name, point));
    case "root":
      return rootAt(node.of, point);
    case "negative":
      return positive(-valueAt(node.of, point));
    case "power": {
      const base = valueAt(node.base, point);
      const size = power(base, BigInt(Math.abs(node.exponent)));
      return node.exponent < 0 ? inverse(size) : size;
    }
    default: {
      const [left, right] = [valueAt(node.left, point), valueAt(node.right, point)];
      if (node.kind === "+") return positive(left + right);
      if (node.kind === "-") return positive(left - right);
      return positive(left * (node.kind === "*" ? right : inverse(right)));
    }
  }
}

/** What is a square comes out of the root; the rest is an unknown. */
function rootAt(of: Node, point: number): bigint {
  let rest = of.kind === "number" && of.under === 1n && of.value < 1_000_000n
    ? Number(of.value)
    : null;
  if (rest === null || rest === 0) {
    return rest === 0 ? 0n : BigInt(hashText(`root ${valueAt(of, point)}`, point));
  }
  let factor = 1;
  for (let i = 2; i * i <= rest; i++) {
    while (rest % (i * i) === 0) {
      rest /= i * i;
      factor *= i;
    }
  }
  return rest === 1
    ? BigInt(factor)
    : positive(BigInt(factor) * BigInt(hashText(`root ${rest}`, point)));
}

const POINTS = [11, 29];

function valuesOf(text: string): bigint[] | null {
  const tokens = text.length > MAX_TEXT ? null : tokensOf(text);
  if (tokens === null || tokens.length === 0) return null;
  try {
    const node = new Parser(tokens).whole();
    return POINTS.map((point) => valueAt(node, point));
  } catch (error) {
    if (error instanceof NotAnExpression) return null;
    throw error;
  }
}

/** Whether both texts are expressions and the same; `x = ` in front of one is left out. */
export function sameExpression(a: string, b: string): boolean {
  const [x, y] = [a, b].map((text) =>
    valuesOf(text.replace(/^\s*\$?\s*[a-zA-Z]\s*=/, "").replaceAll("$", ""))
  );
  return x !== null && y !== null && x.every((value, i) => value === y[i]);
}
