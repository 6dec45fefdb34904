/**
 * Typed, range-checked access to a checkpoint's hyper-parameters. A parameter has one name in GGUF
 * metadata (under the architecture's prefix) and another in Hugging Face's config.json; the caller
 * states both. Null and absent are the same. Nothing is taken on trust: every value that is returned
 * has the type and the range that was asked for.
 */

import { EXPERTS_ADJACENT_KEY } from "../formats/gguf/keys.ts";
import { FormatError, UnsupportedOpError } from "../errors.ts";
import type { MetadataValue, TensorSource } from "../formats/tensor_source.ts";

/** A hyper-parameter's name in each format. */
export interface ConfigKey {
  /** Without the architecture's prefix: `block_count` stands for `llama.block_count`. */
  readonly gguf: string;
  readonly huggingFace: string;
}

/** Which integers are right; without `fallback` the value must be there. */
export interface IntegerOptions {
  readonly min: number;
  readonly max: number;
  readonly fallback?: number;
}

/** Which numbers are right: those above `above`, up to `max`. */
export interface NumberOptions {
  readonly above: number;
  readonly max: number;
  readonly fallback?: number;
}

const ACTION = "read the model's configuration";

/** The fields of one object: GGUF's metadata, config.json, or an object within config.json. */
export class ConfigSection {
  readonly #values: ReadonlyMap<string, MetadataValue>;
  readonly #prefix: string;

  /** `prefix` precedes each name in messages. */
  constructor(values: ReadonlyMap<string, MetadataValue>, prefix = "") {
    this.#values = values;
    this.#prefix = prefix;
  }

  has(name: string): boolean {
    return this.#lookup(name) !== undefined;
  }

  /** The nested object called `name`; undefined where it is absent. */
  section(name: string): ConfigSection | undefined {
    const value = this.#lookup(name);
    if (value === undefined) return undefined;
    if (typeof value !== "object" || value === null || Symbol.iterator in value) {
      throw FormatError.of(ACTION, this.label(name), shown(value), "an object");
    }
    return new ConfigSection(new Map(Object.entries(value)), `${this.#prefix}${name}.`);
  }

  integer(name: string, options: IntegerOptions): number {
    const { min, max, fallback } = options;
    const value = this.#uniform(name) ?? fallback;
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) {
      return value;
    }
    throw FormatError.of(
      ACTION,
      this.label(name),
      shown(value),
      `an integer from ${min} to ${max}`,
    );
  }

  number(name: string, options: NumberOptions): number {
    const { above, max, fallback } = options;
    const value = this.#lookup(name) ?? fallback;
    // NaN fails both comparisons.
    if (typeof value === "number" && value > above && value <= max) return value;
    const must = `a number above ${above} and at most ${max}`;
    throw FormatError.of(ACTION, this.label(name), shown(value), must);
  }

  boolean(name: string, options: { fallback: boolean }): boolean {
    const value = this.#lookup(name) ?? options.fallback;
    if (typeof value === "boolean") return value;
    throw FormatError.of(ACTION, this.label(name), shown(value), "true or false");
  }

  text(name: string, options: { fallback: string }): string {
    const value = this.#lookup(name) ?? options.fallback;
    if (typeof value === "string") return value;
    throw FormatError.of(ACTION, this.label(name), shown(value), "a string");
  }

  /** A list of integers of the range; undefined where it is absent. */
  integers(name: string, { min, max }: { min: number; max: number }): number[] | undefined {
    return this.#list(
      name,
      `integers from ${min} to ${max}`,
      (item): item is number =>
        typeof item === "number" && Number.isInteger(item) && item >= min && item <= max,
    );
  }

  /** A list of strings of `allowed`; undefined where it is absent. */
  texts<T extends string>(name: string, { allowed }: { allowed: readonly T[] }): T[] | undefined {
    return this.#list(
      name,
      `any of ${allowed.join(", ")}`,
      (item): item is T => (allowed as readonly MetadataValue[]).includes(item),
    );
  }

  #list<T extends MetadataValue>(
    name: string,
    items: string,
    isRight: (item: MetadataValue) => item is T,
  ): T[] | undefined {
    const value = this.#lookup(name);
    if (value === undefined) return undefined;
    const list = isList(value) ? [...value] : undefined;
    if (list?.every(isRight)) return list;
    const wrong = list?.find((item) => !isRight(item));
    const is = list === undefined ? shown(value) : `a list with ${shown(wrong)}`;
    throw FormatError.of(ACTION, this.label(name), is, `a list of ${items}`);
  }

  /** The field's full name, quoted, for messages. */
  label(name: string): string {
    return `"${this.#prefix}${name}"`;
  }

  #lookup(name: string): MetadataValue | undefined {
    return this.#values.get(name) ?? undefined;
  }

  /** GGUF may give a number per layer; one that is the same for all layers reads as that number. */
  #uniform(name: string): MetadataValue | undefined {
    const value = this.#lookup(name);
    if (!isList(value) || value.length === 0) return value;
    const [first, ...rest] = value;
    if (rest.every((other) => other === first)) return first;
    throw FormatError.of(ACTION, this.label(name), "not the same in all layers", "the same");
  }
}

/** A checkpoint's top-level fields under the names of either format. */
export class ConfigReader {
  readonly format: TensorSource["format"];
  /** The architecture's name in GGUF, which precedes its keys there. */
  readonly architecture: string;
  readonly #fields: ConfigSection;
  readonly #prefix: string;

  constructor(source: Pick<TensorSource, "format" | "metadata">, ggufArchitecture: string) {
    this.format = source.format;
    this.architecture = ggufArchitecture;
    this.#fields = new ConfigSection(source.metadata);
    this.#prefix = source.format === "gguf" ? `${ggufArchitecture}.` : "";
  }

  /** The nested object of config.json called `name`; undefined where it is absent. */
  section(name: string): ConfigSection | undefined {
    return this.#fields.section(name);
  }

  /** Whether `deno task repack` wrote the file, each expert in tensors of its own. */
  get expertsApart(): boolean {
    return this.format === "gguf" &&
      this.#fields.boolean(EXPERTS_ADJACENT_KEY, { fallback: false });
  }

  has(key: ConfigKey): boolean {
    return this.#fields.has(this.#name(key));
  }

  integer(key: ConfigKey, options: IntegerOptions): number {
    return this.#fields.integer(this.#name(key), options);
  }

  number(key: ConfigKey, options: NumberOptions): number {
    return this.#fields.number(this.#name(key), options);
  }

  boolean(key: ConfigKey, options: { fallback: boolean }): boolean {
    return this.#fields.boolean(this.#name(key), options);
  }

  text(key: ConfigKey, options: { fallback: string }): string {
    return this.#fields.text(this.#name(key), options);
  }

  integers(key: ConfigKey, options: { min: number; max: number }): number[] | undefined {
    return this.#fields.integers(this.#name(key), options);
  }

  texts<T extends string>(key: ConfigKey, options: { allowed: readonly T[] }): T[] | undefined {
    return this.#fields.texts(this.#name(key), options);
  }

  /** The field's name in this file, quoted, for messages. */
  label(key: ConfigKey): string {
    return this.#fields.label(this.#name(key));
  }

  /** The error for a value under which the forward pass would be wrong. */
  unsupported(key: ConfigKey, { is, must }: { is: unknown; must: string }): UnsupportedOpError {
    return new UnsupportedOpError(
      `cannot run this model: ${this.label(key)} is ${shown(is)}, must be ${must}`,
    );
  }

  /** The error for a value that contradicts another one. */
  contradiction(key: ConfigKey, options: { is: unknown; must: string }): FormatError {
    return FormatError.of(ACTION, this.label(key), options.is, options.must);
  }

  #name(key: ConfigKey): string {
    return this.#prefix + (this.format === "gguf" ? key.gguf : key.huggingFace);
  }
}

/** A JSON array or a lazily decoded GGUF array, of a plausible length (one entry a layer). */
function isList(
  value: MetadataValue | undefined,
): value is Iterable<MetadataValue> & { length: number } & MetadataValue {
  if (typeof value !== "object" || value === null || !(Symbol.iterator in value)) return false;
  return (value as { length: number }).length <= 4096;
}

/** A value for a message, bounded in length. */
function shown(value: unknown): string {
  if (value === undefined) return "missing";
  if (typeof value === "object" && value !== null) {
    return Symbol.iterator in value ? "a list" : "an object";
  }
  const text = typeof value === "string" ? JSON.stringify(value) : String(value);
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`;
}
