/** A recipe's filters: limits with defaults, each of which a source can turn off or set for itself. */

import type { FilterOptions } from "../filters/mod.ts";
import type { Fields } from "./fields.ts";

const KEYS = ["length", "symbols", "repetition", "language", "duplicates", "contamination"];

/** What goes through unseen: for generated problems, which their checkers judge. */
export const NO_FILTERS: FilterOptions = Object.freeze({
  length: null,
  symbols: null,
  repetition: null,
  language: null,
  duplicates: false,
  contamination: true,
});

const MANY = 10_000_000;

/** Reads `filters` of the recipe or of a source over what holds without it. */
export function readFilters(parent: Fields, base: FilterOptions): FilterOptions {
  const fields = parent.object("filters", KEYS);
  /** A filter's own object where it has one; null where it is false; else what holds. */
  const filter = <T>(key: string, held: T | null, read: () => T): T | null => {
    if (fields.isFalse(key)) return null;
    return fields.has(key) ? read() : held;
  };
  return {
    length: filter("length", base.length, () => {
      const limits = fields.object("length", [
        "minCharacters",
        "maxCharacters",
        "minWords",
        "maxWords",
      ]);
      const limit = (key: string, fallback: number) =>
        limits.integer(key, { min: 0, max: MANY, fallback });
      return {
        minCharacters: limit("minCharacters", 1),
        maxCharacters: limit("maxCharacters", 100_000),
        minWords: limit("minWords", 1),
        maxWords: limit("maxWords", 20_000),
      };
    }),
    symbols: filter("symbols", base.symbols, () => {
      const limits = fields.object("symbols", ["maxSymbols", "minLetters"]);
      return {
        maxSymbols: limits.number("maxSymbols", { min: 0, max: 1, fallback: 0.3 }),
        minLetters: limits.number("minLetters", { min: 0, max: 1, fallback: 0.5 }),
      };
    }),
    repetition: filter("repetition", base.repetition, () => {
      const limits = fields.object("repetition", ["maxLines", "maxWords", "words", "maxPair"]);
      return {
        maxLines: limits.number("maxLines", { min: 0, max: 1, fallback: 0.3 }),
        maxWords: limits.number("maxWords", { min: 0, max: 1, fallback: 0.3 }),
        words: limits.integer("words", { min: 2, max: 50, fallback: 8 }),
        maxPair: limits.number("maxPair", { min: 0, max: 1, fallback: 0.2 }),
      };
    }),
    language: filter("language", base.language, () => {
      const limits = fields.object("language", ["allow", "minCharacters"]);
      return {
        allow: limits.texts("allow"),
        minCharacters: limits.integer("minCharacters", { min: 0, max: MANY, fallback: 40 }),
      };
    }),
    duplicates: fields.boolean("duplicates", base.duplicates),
    contamination: fields.boolean("contamination", base.contamination),
  };
}
