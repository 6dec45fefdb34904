/**
 * Values of the Jinja interpreter, seen from outside: the library exports no classes for them, so they
 * are told apart by their `type` names. What it leaves to JavaScript is done here as Python does it.
 */

import { Environment, type Interpreter } from "@huggingface/jinja";

export type Node = NonNullable<Parameters<Interpreter["evaluate"]>[0]>;
export type Value = ReturnType<Interpreter["evaluate"]>;

/** Makes a value of the interpreter from a JavaScript one. */
export function toValue(value: unknown): Value {
  return new Environment().set("value", value);
}

export function isString(value: Value): boolean {
  return value.type === "StringValue";
}

/** The text of a string; undefined for other values. */
export function textOf(value: Value | undefined): string | undefined {
  return value !== undefined && isString(value) ? value.value as string : undefined;
}

export function isList(value: Value): boolean {
  return value.type === "ArrayValue" || value.type === "TupleValue";
}

export function isMapping(value: Value): boolean {
  return value.type === "ObjectValue" || value.type === "NamespaceValue" ||
    value.type === "KeywordArgumentsValue";
}

export function isContainer(value: Value): boolean {
  return isList(value) || isMapping(value);
}

function isNumeric(value: Value): boolean {
  return value.type === "IntegerValue" || value.type === "FloatValue" ||
    value.type === "BooleanValue";
}

/** A list with the same elements. */
export function copyList(list: Value): Value {
  const make = list.constructor as new (items: Value[]) => Value;
  return new make((list.value as Value[]).slice());
}

/** How many elements or entries a container has; 0 for the others. */
export function countOf(value: Value): number {
  if (isList(value)) return (value.value as Value[]).length;
  return isMapping(value) ? (value.value as Map<string, Value>).size : 0;
}

/** A list's elements or a mapping's values; none for the others. */
function children(value: Value): Iterable<Value> {
  if (isList(value)) return value.value as Value[];
  if (isMapping(value)) return (value.value as Map<string, Value>).values();
  return [];
}

/**
 * The size of a value written out: elements, and letters of strings and keys. An element that is
 * used twice counts twice, since that is how it is written. Stops counting beyond `limit`.
 */
export function measure(value: Value, limit: number): number {
  const open: Value[] = [value];
  let size = 0;
  while (open.length > 0 && size <= limit) {
    const next = open.pop()!;
    size++;
    if (isString(next)) size += (next.value as string).length;
    if (isMapping(next)) {
      for (const key of (next.value as Map<string, Value>).keys()) size += key.length;
    }
    for (const child of children(next)) {
      open.push(child);
      if (open.length + size > limit) return limit + 1;
    }
  }
  return size;
}

/** Python's `==`: no conversion but between numbers and booleans, containers by their contents. */
export function pythonEquals(left: Value, right: Value): boolean {
  if (isNumeric(left) && isNumeric(right)) return Number(left.value) === Number(right.value);
  if (isList(left) && left.type === right.type) {
    const [a, b] = [left.value as Value[], right.value as Value[]];
    return a.length === b.length && a.every((item, i) => pythonEquals(item, b[i]));
  }
  if (left.type === "ObjectValue" && right.type === "ObjectValue") {
    const [a, b] = [left.value as Map<string, Value>, right.value as Map<string, Value>];
    return a.size === b.size &&
      [...a].every(([key, item]) => b.has(key) && pythonEquals(item, b.get(key)!));
  }
  return left.type === right.type && left.value === right.value;
}

/** Python's `str()`: what an expression writes into the output. */
export function pythonText(value: Value): string {
  switch (value.type) {
    case "StringValue":
      return value.value as string;
    case "UndefinedValue":
      return "";
    default:
      return pythonRepr(value);
  }
}

/** Python's `repr()`. */
function pythonRepr(value: Value): string {
  switch (value.type) {
    case "StringValue":
      return quote(value.value as string);
    case "NullValue":
      return "None";
    case "UndefinedValue":
      return "Undefined";
    case "BooleanValue":
      return value.value === true ? "True" : "False";
  }
  if (value.type === "TupleValue") {
    const items = (value.value as Value[]).map(pythonRepr);
    return items.length === 1 ? `(${items[0]},)` : `(${items.join(", ")})`;
  }
  if (isList(value)) return `[${(value.value as Value[]).map(pythonRepr).join(", ")}]`;
  if (isMapping(value)) {
    const entries = [...value.value as Map<string, Value>];
    const items = entries.map(([key, item]) => `${quote(key)}: ${pythonRepr(item)}`);
    return `{${items.join(", ")}}`;
  }
  return value.toString();
}

const ESCAPES: Readonly<Record<number, string>> = Object.freeze({ 9: "\\t", 10: "\\n", 13: "\\r" });

/** How Python writes a character that does not print. */
function hexEscape(code: number): string {
  const hex = code.toString(16);
  if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
}

function quote(text: string): string {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  let escaped = "";
  for (const char of text) {
    const code = char.codePointAt(0)!;
    if (char === mark || char === "\\") escaped += `\\${char}`;
    else if (code in ESCAPES) escaped += ESCAPES[code];
    else if (char !== " " && /[\p{C}\p{Z}]/u.test(char)) escaped += hexEscape(code);
    else escaped += char;
  }
  return mark + escaped + mark;
}

/** What Python's `str.strip` takes away without an argument: information separators are spaces there. */
function isPythonSpace(char: string): boolean {
  return /\p{White_Space}/u.test(char) || (char >= "\x1c" && char <= "\x1f");
}

/** Python's `strip`, `lstrip` and `rstrip`: spaces, or any of the characters given. */
export function strip(
  text: string,
  options: { chars?: string; left: boolean; right: boolean },
): string {
  const { chars } = options;
  const goes = (char: string) => chars === undefined ? isPythonSpace(char) : chars.includes(char);
  let start = 0;
  let end = text.length;
  if (options.left) { while (start < end && goes(text[start])) start++; }
  if (options.right) { while (end > start && goes(text[end - 1])) end--; }
  return text.slice(start, end);
}

/** Python's `capitalize`: the first letter upper case, the others lower. */
export function capitalize(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1).toLowerCase();
}
