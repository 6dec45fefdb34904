/** Reads a recipe's JSON field by field; every refusal names the field, what it is and what it must be. */

import { OptionError } from "../../../errors.ts";
import type { MetadataValue } from "../../../formats/tensor_source.ts";

interface Place {
  /** Begins messages: `read the recipe "x.json"`. */
  readonly action: string;
  /** `sources[2].filters`, "" for the whole. */
  readonly path: string;
}

/** An object of a recipe, whose keys are known beforehand. */
export class Fields {
  readonly #place: Place;
  readonly #value: Readonly<Record<string, unknown>>;

  constructor(value: unknown, options: Place & { keys: readonly string[] }) {
    this.#place = options;
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw refusal(options, { is: value, must: "an object" });
    }
    this.#value = value as Readonly<Record<string, unknown>>;
    for (const key of Object.keys(value)) {
      if (options.keys.includes(key)) continue;
      const near = options.keys.find((known) => distance(known, key) <= 2);
      const hint = near === undefined ? "" : ` (perhaps ${near} is meant)`;
      throw new OptionError(
        `cannot ${options.action}: ${this.path(key)} is not known, ` +
          `must be one of ${options.keys.join(", ")}${hint}`,
      );
    }
  }

  path(key: string): string {
    return this.#place.path === "" ? key : `${this.#place.path}.${key}`;
  }

  has(key: string): boolean {
    return this.#value[key] !== undefined;
  }

  isFalse(key: string): boolean {
    return this.#value[key] === false;
  }

  /** Throws what is wrong with a field. */
  refuse(key: string, must: string): never {
    throw refusal({ ...this.#place, path: this.path(key) }, { is: this.#value[key], must });
  }

  text(key: string, options: { fallback?: string } = {}): string {
    const value = this.#value[key] ?? options.fallback;
    return typeof value === "string" && value !== "" ? value : this.refuse(key, "a text");
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.#value[key] ?? fallback;
    return typeof value === "boolean" ? value : this.refuse(key, "true or false");
  }

  choice<const Word extends string>(
    key: string,
    options: { words: readonly Word[]; fallback?: NoInfer<Word> },
  ): Word {
    const value = this.#value[key] ?? options.fallback;
    const word = options.words.find((word) => word === value);
    return word ?? this.refuse(key, `one of ${options.words.join(", ")}`);
  }

  number(key: string, options: { min: number; max: number; fallback?: number }): number {
    const { min, max } = options;
    const value = this.#value[key] ?? options.fallback;
    if (typeof value === "number" && value >= min && value <= max) return value;
    return this.refuse(key, `a number from ${min} to ${max}`);
  }

  integer(key: string, options: { min: number; max: number; fallback?: number }): number {
    const { min, max } = options;
    const value = this.#value[key] ?? options.fallback;
    if (Number.isInteger(value) && value as number >= min && value as number <= max) {
      return value as number;
    }
    return this.refuse(key, `a whole number from ${min} to ${max}`);
  }

  /** A list of at least one element, each with its path. */
  list(key: string): { value: unknown; path: string }[] {
    const value = this.#value[key];
    if (!Array.isArray(value) || value.length === 0) {
      this.refuse(key, "a list with at least one element");
    }
    return value.map((element, i) => ({ value: element, path: `${this.path(key)}[${i}]` }));
  }

  texts(key: string): string[] {
    return this.list(key).map(({ value, path }) => {
      if (typeof value === "string" && value !== "") return value;
      throw refusal({ ...this.#place, path }, { is: value, must: "a text" });
    });
  }

  /** An object that is passed on as it is. */
  json(key: string): Readonly<Record<string, MetadataValue>> {
    const value = this.#value[key];
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      return value as Readonly<Record<string, MetadataValue>>;
    }
    return this.refuse(key, "an object");
  }

  /** An object inside; an empty one where the field is missing. */
  object(key: string, keys: readonly string[]): Fields {
    return new Fields(this.#value[key] ?? {}, {
      action: this.#place.action,
      path: this.path(key),
      keys,
    });
  }
}

function refusal(place: Place, { is, must }: { is: unknown; must: string }): OptionError {
  const shown = is === undefined ? "missing" : JSON.stringify(is);
  const short = shown.length > 60 ? `${shown.slice(0, 57)}...` : shown;
  const what = place.path === "" ? "the recipe" : place.path;
  return new OptionError(`cannot ${place.action}: ${what} is ${short}, must be ${must}`);
}

/** Letters to insert, delete or replace (Levenshtein). */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, replaced));
    }
    row = next;
  }
  return row[b.length];
}
