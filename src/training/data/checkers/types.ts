/** What a checker is. */

import type { LineVerdict } from "./claims.ts";

/**
 * Judges by the prompt alone: it reads the problem anew, by its own rules, and works it out by its own
 * means. Nothing here comes from the generators, so that neither can hide the other's mistake.
 */
export interface Checker {
  /** Whether `text` (what follows `</think>`) answers the prompt rightly, and with one answer only. */
  readonly isRight: (prompt: string, text: string) => boolean;
  /** Claims of a line that are about the prompt's people or things; null where a line has none. */
  readonly checkLine?: (prompt: string, line: string) => LineVerdict | null;
}
