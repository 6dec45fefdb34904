/** Checks that what is no problem of ours is declined, or greeted, and nothing made up. */

import type { Checker } from "./types.ts";

/** What asks for nothing but who is there. */
const GREETING =
  /^\s*(?:(?:hello|hi|hey|help|test|thanks?|thank you|good (?:morning|evening))(?: there| me| world| very much)?[!.?]?\s*$|(?:(?:hello|hi)[,!] )?(?:(?:who|what|how) (?:are|made) you\b|what (?:can (?:you do|i ask)|model are you|do you know[?]?\s*$|is your name)|(?:how )?can you help|are you\b|introduce|tell me about yourself|what's your name))/i;
/** What is said around a question. */
const AROUND = /^\s*(?:q(?:uestion)?: |please |hi! |hello\. )|[.?]? thanks!\s*$/gi;
const MAX_CHARACTERS = 200;

export const outside: Checker = {
  isRight(prompt, text) {
    const plain = text.trim();
    if (plain.length > MAX_CHARACTERS || /\d/.test(plain)) return false;
    const saysWhatItCan = /\bI can (?:only )?do\b/.test(plain);
    const declines = /\bI (?:don't|do not|can't|cannot) know\b|\bI can only\b/.test(plain);
    return GREETING.test(prompt.replace(AROUND, "")) ? saysWhatItCan && !declines : declines;
  },
};
