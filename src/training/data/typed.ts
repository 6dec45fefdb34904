/** Problems as people type them: in a hurry, with other signs, without the last one. */

import type { Draws } from "./draws.ts";

const REQUESTS =
  "Calculate|Add|Subtract|Take|Multiply|Divide|Convert|Write|Split|Find|Put|Use|Reverse|Count|Explain|Tell|Describe|Solve";
const REQUEST = new RegExp(`^(?:${REQUESTS})\\b`);
/** Words that begin a question or a request; a name or a noun stays as it is. */
const OPENING = new RegExp(
  `^(?:What|How|Which|Who|When|Where|Why|Is|If|Today|It|Compare|Give|Hello|Hi|Hey|There|Suppose|Do|Can|${REQUESTS})\\b`,
);
const BARE = /^(?:What is|Calculate|How much is) ([\d+\-*/×÷(). ]*\d\)?)[.?]$/;

const lowered = (text: string) => text[0].toLowerCase() + text.slice(1);

/** The prompt, as it is half of the time, else with some of what makes typed text different. */
export function asTyped(prompt: string, draws: Draws): string {
  if (draws.chance(0.5)) return prompt;
  let text = prompt;
  if (draws.chance(0.25)) text = text.replace(BARE, draws.pick(["$1", "$1 =", "$1=", "$1 = ?"]));
  if (draws.chance(0.2)) text = text.replace(/^What is\b/, "What's");
  // The signs of longer expressions stay: their answers repeat them.
  const isOne = text.match(/[*×]/g)?.length === 1 && !/[-+/()]/.test(text);
  if (isOne && draws.chance(0.6)) text = text.replace(/ [*×] /, draws.pick([" x ", " * ", " × "]));
  if (draws.chance(0.4)) text = text.replace(/(?<=[\d)]) ([+\-*/×÷x]) (?=[\d(])/g, "$1");
  if (draws.chance(0.4)) text = text.replace(/ = \?$/, draws.pick([" =", "=", "=?", ""]));
  // Of several sentences the last is told by its mark.
  const isShort = !/[.:] /.test(text);
  if (isShort && draws.chance(0.4)) text = text.replace(/ ?[.?]$/, "");
  if (OPENING.test(text) && draws.chance(0.5)) text = lowered(text);
  if (!draws.chance(0.15)) return text;
  const end = /[.?!]$/.test(text) ? "" : ".";
  const isRequest = REQUEST.test(text);
  return draws.pick([
    () => isRequest ? `Please ${lowered(text)}` : `Hello. ${text}`,
    () => `Question: ${text}`,
    () => `Q: ${text}`,
    () => `Hi! ${text}`,
    () => isShort ? `${text}${end} Thanks!` : text,
    () => `  ${text}\n`,
  ])();
}
