/** The filters of a recipe in one chain; the first that objects names the reason that is counted. */

import { type Draft, textOf } from "../rows.ts";
import type { Contamination } from "./contamination.ts";
import { type LanguageLimits, openLanguageFilter } from "./language.ts";
import {
  lengthFault,
  type LengthLimits,
  repetitionFault,
  type RepetitionLimits,
  symbolFault,
  type SymbolLimits,
} from "./quality.ts";

/** Which filters a source goes through; null: not this one. */
export interface FilterOptions {
  readonly length: LengthLimits | null;
  readonly symbols: SymbolLimits | null;
  readonly repetition: RepetitionLimits | null;
  readonly language: LanguageLimits | null;
  /** Whether rows are held against the rows before them. */
  readonly duplicates: boolean;
  readonly contamination: boolean;
}

/** Why a draft is left out, or null. Duplicates are looked for elsewhere, since they need memory. */
export type Judge = (draft: Draft) => string | null;

export async function openFilters(
  options: FilterOptions,
  contamination: Contamination | null,
): Promise<Judge> {
  const { length, symbols, repetition } = options;
  const language = options.language === null ? null : await openLanguageFilter(options.language);
  const ofText = [
    length && ((text: string) => lengthFault(text, length)),
    symbols && ((text: string) => symbolFault(text, symbols)),
    repetition && ((text: string) => repetitionFault(text, repetition)),
    language,
  ].filter((filter) => filter !== null);
  return (draft) => {
    const text = textOf(draft);
    for (const filter of ofText) {
      const fault = filter(text);
      if (fault !== null) return fault;
    }
    return options.contamination ? contamination?.fault(draft) ?? null : null;
  };
}
