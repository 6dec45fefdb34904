/** Parts a completion into reasoning and answer, and says what is wrong with its form. */

const OPEN = "<think>";
const CLOSE = "</think>";

/** What tokenizers write at the end of an answer, where special tokens are decoded too. */
const END_MARKS = [
  "<｜end▁of▁sentence｜>",
  "<|im_end|>",
  "<|endoftext|>",
  "<|end_of_text|>",
  "<|eot_id|>",
  "</s>",
  "<eos>",
];

/** Padding repeats the mark; a completion of nothing else is one all the same. */
const MOST_END_MARKS = 64;

export type FormFault =
  | "no reasoning block"
  | "not opened"
  | "not closed"
  | "several blocks"
  | "text in front"
  | "empty reasoning"
  | "no answer";

export interface CompletionParts {
  /** Trimmed; "" where there is none, or no telling which it is. */
  readonly reasoning: string;
  /** Trimmed; "" where there is none: what stands within `<think>` answers nothing. */
  readonly answer: string;
  /** Null where there is one block of reasoning, and an answer behind it. */
  readonly fault: FormFault | null;
}

/** `opened`: the prompt ends with `<think>`, so the completion begins inside. */
export function partsOf(completion: string, { opened }: { opened: boolean }): CompletionParts {
  const text = withoutEndMarks(completion);
  const opens = countOf(text, OPEN) + (opened ? 1 : 0);
  const closes = countOf(text, CLOSE);
  if (opens === 0 && closes === 0) {
    return { reasoning: "", answer: text, fault: "no reasoning block" };
  }
  const open = opened ? 0 : text.indexOf(OPEN);
  const start = opened ? 0 : open + OPEN.length;
  if (closes === 0 && opens === 1) {
    return { reasoning: text.slice(start).trim(), answer: "", fault: "not closed" };
  }
  const close = text.indexOf(CLOSE);
  if (opens > 1 || closes > 1 || close < open) {
    return { reasoning: "", answer: "", fault: "several blocks" };
  }
  const answer = text.slice(close + CLOSE.length).trim();
  if (opens === 0) return { reasoning: text.slice(0, close).trim(), answer, fault: "not opened" };
  const reasoning = text.slice(start, close).trim();
  const fault = text.slice(0, open).trim() !== ""
    ? "text in front"
    : reasoning === ""
    ? "empty reasoning"
    : answer === ""
    ? "no answer"
    : null;
  return { reasoning, answer, fault };
}

function withoutEndMarks(completion: string): string {
  let text = completion.trim();
  for (let i = 0; i < MOST_END_MARKS; i++) {
    const mark = END_MARKS.find((mark) => text.endsWith(mark));
    if (mark === undefined) break;
    text = text.slice(0, -mark.length).trimEnd();
  }
  return text;
}

function countOf(text: string, part: string): number {
  let count = 0;
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) count++;
  return count;
}
