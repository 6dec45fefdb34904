/**
 * GSM8K (Cobbe et al. 2021) and SVAMP (Patel et al. 2021): answers in words, of which a number counts.
 * `exact_match` is that of lm-eval's task gsm8k, with both of its filters; `checked` is our own comparison
 * of numbers, which knows units, fractions and `\boxed`.
 */

import { isRightAnswer } from "../training/reward/answer/judge.ts";
import type { DataRow } from "./rows.ts";
import type { GenerationItem, PromptForm, Shot } from "./types.ts";

export const QUESTION_FORM: PromptForm = Object.freeze({
  render: (question: string) => `Question: ${question}\nAnswer:`,
  stop: ["Question:", "</s>", "<|im_end|>"],
});

/** What stands behind the four signs, the first time. */
const STRICT = /#### (-?[0-9.,]+)/;
/** Whatever looks like a number; the last one counts. */
const FLEXIBLE = /(-?[$0-9.,]{2,})|(-?[0-9]+)/g;

/** Removes what lm-eval ignores in both answers. */
function normalised(answer: string): string {
  return answer.replaceAll(",", "").replaceAll("$", "").replace(/^.*#### /s, "")
    .replace(/\.$/, "").toLowerCase();
}

/** The two `exact_match` of a text, 0 or 1, against a bare number. */
export function exactMatches(text: string, answer: string): { strict: number; flexible: number } {
  const strict = STRICT.exec(text)?.[1];
  const flexible = text.match(FLEXIBLE)?.at(-1);
  const same = (given: string | undefined) =>
    Number(given !== undefined && normalised(given) === normalised(answer));
  return { strict: same(strict), flexible: same(flexible?.trim()) };
}

function wordProblem(id: string, { question, answer }: Shot): GenerationItem {
  return {
    kind: "generation",
    id,
    question,
    judge(text) {
      const { strict, flexible } = exactMatches(text, answer);
      return {
        "exact_match/strict": strict,
        "exact_match/flexible": flexible,
        checked: Number(isRightAnswer(text, { answer, prompt: question })),
      };
    },
  };
}

export function gsm8kItem(row: DataRow): GenerationItem {
  return wordProblem(row.id, {
    question: row.text("question"),
    answer: gsm8kAnswer(row),
  });
}

/** The number behind the four signs. */
function gsm8kAnswer(row: DataRow): string {
  const answer = row.text("answer");
  const number = /#### *(\S+)\s*$/.exec(answer)?.[1];
  if (number === undefined) throw row.error("answer", answer, "a solution that ends with #### N");
  return number.replaceAll(",", "");
}

export function gsm8kShot(row: DataRow): Shot {
  gsm8kAnswer(row);
  return { question: row.text("question"), answer: row.text("answer") };
}

export function svampItem(row: DataRow): GenerationItem {
  const answer = row.get("answer");
  if (typeof answer !== "number") throw row.error("answer", answer, "a number");
  return {
    ...wordProblem(row.id, { question: row.text("question"), answer: String(answer) }),
    ...(typeof row.get("type") === "string" && { group: row.text("type") }),
  };
}
