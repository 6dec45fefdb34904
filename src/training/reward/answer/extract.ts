/** Finds what a text gives as its answer. A text that leaves it open which one is meant gives none. */

import { MAX_ANSWER, plainAnswer } from "../../data/checkers/answer_text.ts";
import { readValue } from "./value.ts";

/** An answer with an explanation; a longer text is not read. */
const MAX_TEXT = 8000;

/**
 * What is marked as the answer (boxed, behind `####`, in `<answer>`, behind "the answer is"); without
 * marks the whole text where it is a sentence, else its last line. Null where several different answers
 * are marked, and where it hedges.
 */
export function givenAnswer(text: string): string | null {
  const trimmed = text.trim();
  if (trimmed.length > MAX_TEXT) return null;
  const marked = markedAnswers(trimmed);
  const isOne = new Set(marked.map(sameness)).size === 1;
  if (marked.length > 0) return isOne ? plainAnswer(marked[0]) : null;
  if (trimmed.length <= MAX_ANSWER) return plainAnswer(trimmed);
  return plainAnswer(trimmed.slice(trimmed.lastIndexOf("\n") + 1));
}

/** Equal for answers that are the same, `85` and `$85.0$`. */
function sameness(answer: string): string {
  const value = readValue(answer);
  return value === null
    ? answer.replace(/\s+/g, "").toLowerCase()
    : `${value.number.over}/${value.number.under}`;
}

function markedAnswers(text: string): string[] {
  const marked = [
    ...boxes(text),
    ...[...text.matchAll(/^#### *(.+)$/gm)].map((match) => match[1]),
    ...[...text.matchAll(/<answer>([^<]*)<\/answer>/g)].map((match) => match[1]),
    ...saidAnswers(text).filter((answer) => !answer.includes("\\boxed")),
  ];
  return marked.map((answer) => answer.trim().replace(/\.$/, "")).filter((answer) => answer !== "");
}

/** What stands behind "the answer is", up to the end of its sentence. */
function saidAnswers(text: string): string[] {
  return [...text.matchAll(/\banswer(?: is|:| =)(?:\*\*)? *:? *([^\n]*)/gi)]
    .map((match) => match[1].split(/\.(?:\s|$)/)[0].replaceAll("**", ""));
}

/** The contents of every `\boxed{...}`, with braces inside. */
function boxes(text: string): string[] {
  const found: string[] = [];
  const mark = "\\boxed{";
  let at = text.indexOf(mark);
  while (at >= 0) {
    const start = at + mark.length;
    let depth = 1;
    let end = start;
    for (; end < text.length && depth > 0; end++) {
      if (text[end] === "{") depth++;
      else if (text[end] === "}") depth--;
    }
    if (depth > 0) break;
    found.push(text.slice(start, end - 1));
    at = text.indexOf(mark, end);
  }
  return found;
}
