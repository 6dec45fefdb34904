/**
 * Typed reading of a request's fields. Null and absent mean the same for every field, since clients
 * send null for what they leave open. Each refusal names the field, what it is and what it must be.
 */

import { RequestError } from "../src/errors.ts";

/** Shows a value in a message: short, on one line. */
function show(value: unknown): string {
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** The error for a field whose value is not what it must be. */
export function fieldError(param: string, value: unknown, must: string): RequestError {
  return new RequestError(
    `cannot read the request: ${param} is ${show(value)}, must be ${must}`,
    { param },
  );
}

/** The error for a field that would change the answer and that this server cannot honour. */
export function unsupportedField(param: string, hint = "leave it out"): RequestError {
  return new RequestError(`cannot serve the request: ${param} is not supported; ${hint}`, {
    param,
    code: "unsupported_parameter",
  });
}

/** Both ends count. */
export interface Range {
  readonly min: number;
  readonly max: number;
}

/** The fields of one JSON object; `prefix` is its own place in the request. */
export class Fields {
  readonly #object: Readonly<Record<string, unknown>>;
  readonly #prefix: string;

  constructor(object: Readonly<Record<string, unknown>>, prefix = "") {
    this.#object = object;
    this.#prefix = prefix;
  }

  /** Reads a nested object's fields; undefined where it is null or absent. */
  object(name: string): Fields | undefined {
    const value = this.raw(name);
    if (value === undefined) return undefined;
    if (typeof value !== "object" || Array.isArray(value)) {
      throw fieldError(this.path(name), value, "an object");
    }
    return new Fields(value as Record<string, unknown>, `${this.path(name)}.`);
  }

  path(name: string): string {
    return `${this.#prefix}${name}`;
  }

  names(): string[] {
    return Object.keys(this.#object);
  }

  /** The value as it came; undefined where it is null or absent. */
  raw(name: string): NonNullable<unknown> | undefined {
    return Object.hasOwn(this.#object, name) ? this.#object[name] ?? undefined : undefined;
  }

  number(name: string, { min, max }: Range): number | undefined {
    const value = this.raw(name);
    if (value === undefined) return undefined;
    if (typeof value !== "number" || !(value >= min && value <= max)) {
      throw fieldError(this.path(name), value, `a number from ${min} to ${max}`);
    }
    return value;
  }

  integer(name: string, { min, max }: Range): number | undefined {
    const value = this.raw(name);
    if (value === undefined) return undefined;
    if (!Number.isInteger(value) || !((value as number) >= min && (value as number) <= max)) {
      throw fieldError(this.path(name), value, `a whole number from ${min} to ${max}`);
    }
    return value as number;
  }

  boolean(name: string): boolean | undefined {
    const value = this.raw(name);
    if (value === undefined || typeof value === "boolean") return value;
    throw fieldError(this.path(name), value, "true or false");
  }

  string(name: string, { maxLength }: { maxLength?: number } = {}): string | undefined {
    const value = this.raw(name);
    if (value === undefined) return undefined;
    if (typeof value === "string" && value.length <= (maxLength ?? Infinity)) return value;
    const bound = maxLength === undefined ? "" : ` of at most ${maxLength} characters`;
    throw fieldError(this.path(name), value, `a string${bound}`);
  }

  list(name: string): readonly unknown[] | undefined {
    const value = this.raw(name);
    if (value === undefined || Array.isArray(value)) return value;
    throw fieldError(this.path(name), value, "a list");
  }
}
