/**
 * Which language a text is in, by the n-grams of `eld` (60 languages). Loaded only where a recipe asks
 * for it. Short texts, names and code are often taken for some other language: texts below
 * `minCharacters` pass unseen.
 */

export interface LanguageLimits {
  /** ISO 639-1 codes. */
  readonly allow: readonly string[];
  readonly minCharacters: number;
}

/** Characters looked at: more tell no more. */
const MAX_CHARACTERS = 2000;

export type LanguageFilter = (text: string) => string | null;

export async function openLanguageFilter(limits: LanguageLimits): Promise<LanguageFilter> {
  const { eld } = await import("eld/small");
  return (text) => {
    if (text.length < limits.minCharacters) return null;
    const { language } = eld.detect(text.slice(0, MAX_CHARACTERS));
    return limits.allow.includes(language) ? null : "language";
  };
}
