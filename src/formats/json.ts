/**
 * A strict JSON parser for files from strangers. Where JSON.parse is lenient, this one is not: a
 * repeated key is refused instead of overwritten, integers keep all their digits (bigint beyond
 * 2^53), nesting and the number of values are bounded, and objects are Maps, so that `__proto__` is a
 * key like any other.
 */

import { FormatError } from "../errors.ts";
import { quoted } from "./byte_source.ts";
import { MAX_JSON_DEPTH } from "./limits.ts";
import type { MetadataValue } from "./tensor_source.ts";

export type JsonValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | readonly JsonValue[]
  | ReadonlyMap<string, JsonValue>;

export interface JsonOptions {
  /** Begins every message: `read the header of "x.safetensors"`. */
  readonly action: string;
  /** Arrays and objects inside one another. */
  readonly maxDepth?: number;
  /** Values of every kind, which bounds the memory the result takes. */
  readonly maxValues?: number;
}

/** Bounds memory at some hundred bytes a value. */
const DEFAULT_MAX_VALUES = 4_000_000;

/** Parses exactly one JSON value with white space around it. Throws FormatError. */
export function parseStrictJson(text: string, options: JsonOptions): JsonValue {
  const parser = new Parser(text, options);
  const value = parser.value(0);
  parser.skipSpace();
  if (parser.position < text.length) throw parser.unexpected("the end of the text");
  return value;
}

/** The same value as plain objects and arrays; `__proto__` becomes an ordinary own property. */
export function toPlainJson(value: JsonValue): MetadataValue {
  if (Array.isArray(value)) return value.map(toPlainJson);
  if (!(value instanceof Map)) return value as MetadataValue;
  const plain: Record<string, MetadataValue> = {};
  for (const [key, item] of value as ReadonlyMap<string, JsonValue>) {
    Object.defineProperty(plain, key, {
      value: toPlainJson(item),
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  return plain;
}

const QUOTE = 0x22;
const COMMA = 0x2c;
const MINUS = 0x2d;
const COLON = 0x3a;
const OPEN_BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_BRACKET = 0x5d;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;

/** A JSON number at the position it is matched at: integer, fraction, exponent. */
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
/** Numbers of more digits than any 64-bit integer or double needs are not parsed. */
const MAX_NUMBER_LENGTH = 64;

const ESCAPES: Readonly<Record<string, string>> = Object.freeze({
  '"': '"',
  "\\": "\\",
  "/": "/",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
});

const KEYWORDS: readonly (readonly [string, null | boolean])[] = [
  ["null", null],
  ["true", true],
  ["false", false],
];

class Parser {
  readonly #text: string;
  readonly #action: string;
  readonly #maxDepth: number;
  #valuesLeft: number;
  position = 0;

  constructor(text: string, options: JsonOptions) {
    this.#text = text;
    this.#action = options.action;
    this.#maxDepth = options.maxDepth ?? MAX_JSON_DEPTH;
    this.#valuesLeft = options.maxValues ?? DEFAULT_MAX_VALUES;
  }

  value(depth: number): JsonValue {
    this.skipSpace();
    if (--this.#valuesLeft < 0) {
      throw this.#error("the number of values", "beyond the limit", "smaller");
    }
    const code = this.#text.charCodeAt(this.position);
    if (code === QUOTE) return this.#string();
    if (code === OPEN_BRACE || code === OPEN_BRACKET) {
      if (depth >= this.#maxDepth) {
        throw this.#error("the nesting depth", depth + 1, `at most ${this.#maxDepth}`);
      }
      return code === OPEN_BRACE ? this.#object(depth + 1) : this.#array(depth + 1);
    }
    if (code === MINUS || (code >= 0x30 && code <= 0x39)) return this.#number();
    for (const [word, meaning] of KEYWORDS) {
      if (this.#text.startsWith(word, this.position)) {
        this.position += word.length;
        return meaning;
      }
    }
    throw this.unexpected("a value");
  }

  skipSpace(): void {
    const text = this.#text;
    while (this.position < text.length) {
      const code = text.charCodeAt(this.position);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
      this.position++;
    }
  }

  unexpected(must: string): FormatError {
    const { position } = this;
    const is = position < this.#text.length
      ? quoted(String.fromCodePoint(this.#text.codePointAt(position)!))
      : "the end of the text";
    return this.#error(`character ${position} of the JSON`, is, must);
  }

  #object(depth: number): ReadonlyMap<string, JsonValue> {
    const object = new Map<string, JsonValue>();
    this.position++;
    this.skipSpace();
    if (this.#take(CLOSE_BRACE)) return object;
    while (true) {
      this.skipSpace();
      if (this.#text.charCodeAt(this.position) !== QUOTE) throw this.unexpected("a quoted key");
      const key = this.#string();
      if (object.has(key)) throw this.#error(`key ${quoted(key)}`, "there twice", "unique");
      this.skipSpace();
      if (!this.#take(COLON)) throw this.unexpected('":"');
      object.set(key, this.value(depth));
      this.skipSpace();
      if (this.#take(CLOSE_BRACE)) return object;
      if (!this.#take(COMMA)) throw this.unexpected('"," or "}"');
    }
  }

  #array(depth: number): JsonValue[] {
    const array: JsonValue[] = [];
    this.position++;
    this.skipSpace();
    if (this.#take(CLOSE_BRACKET)) return array;
    while (true) {
      array.push(this.value(depth));
      this.skipSpace();
      if (this.#take(CLOSE_BRACKET)) return array;
      if (!this.#take(COMMA)) throw this.unexpected('"," or "]"');
    }
  }

  #take(code: number): boolean {
    if (this.#text.charCodeAt(this.position) !== code) return false;
    this.position++;
    return true;
  }

  #number(): number | bigint {
    NUMBER.lastIndex = this.position;
    const match = NUMBER.exec(this.#text);
    if (match === null) throw this.unexpected("a number");
    const [digits, fraction, exponent] = match;
    if (digits.length > MAX_NUMBER_LENGTH) {
      throw this.#error("a number", `${digits.length} characters long`, "at most 64");
    }
    this.position += digits.length;
    const value = Number(digits);
    if (!Number.isFinite(value)) throw this.#error("a number", digits, "within a double's range");
    if (fraction !== undefined || exponent !== undefined || Number.isSafeInteger(value)) {
      return value;
    }
    return BigInt(digits);
  }

  /** The text of a string whose opening quote is at the position. */
  #string(): string {
    const text = this.#text;
    let begin = ++this.position;
    let result = "";
    while (this.position < text.length) {
      const code = text.charCodeAt(this.position);
      if (code === QUOTE) {
        result += text.slice(begin, this.position++);
        if (!result.isWellFormed()) throw this.#error("a string", "half a surrogate pair", "text");
        return result;
      }
      if (code < 0x20) throw this.unexpected("an escape (control characters are not allowed)");
      if (code === BACKSLASH) {
        result += text.slice(begin, this.position) + this.#escape();
        begin = this.position;
      } else this.position++;
    }
    throw this.unexpected("a closing quote");
  }

  #escape(): string {
    const letter = this.#text[this.position + 1] ?? "";
    if (letter === "u") {
      const digits = this.#text.slice(this.position + 2, this.position + 6);
      if (!/^[0-9a-fA-F]{4}$/.test(digits)) throw this.unexpected("an escape of four hex digits");
      this.position += 6;
      // Halves of a surrogate pair come one after the other and join in the result.
      return String.fromCharCode(parseInt(digits, 16));
    }
    if (!Object.hasOwn(ESCAPES, letter)) throw this.unexpected("an escape of JSON");
    this.position += 2;
    return ESCAPES[letter];
  }

  #error(what: string, is: unknown, must: string): FormatError {
    return FormatError.of(this.#action, what, is, must);
  }
}
