/** Checks that what is no problem of ours is declined, or greeted, and nothing made up. */

import type { Checker } from "./types.ts";

const GREETING = /^(?:hello|hi\b|help\b|who are you|what can you do)/i;
const MAX_CHARACTERS = 200;

export const outside: Checker = {
  isRight(prompt, text) {
    const plain = text.trim();
    if (plain.length > MAX_CHARACTERS || /\d/.test(plain)) return false;
    const saysWhatItCan = /\bI can (?:only )?do\b/.test(plain);
    const declines = /\bI (?:don't|do not|can't|cannot) know\b|\bI can only\b/.test(plain);
    return GREETING.test(prompt) ? saysWhatItCan && !declines : declines;
  },
};
