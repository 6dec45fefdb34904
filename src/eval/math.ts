/**
 * MATH-500 (Hendrycks et al. 2021; Lightman et al. 2023): worked solutions whose last `\boxed` counts.
 * `exact_match` compares its LaTeX once it has been tidied, `equivalent` what it means.
 */

import { isRightAnswer } from "../training/reward/answer/judge.ts";
import type { DataRow } from "./rows.ts";
import type { GenerationItem, PromptForm, Shot } from "./types.ts";

/** Minerva's form (Lewkowycz et al. 2022), as lm-eval's task minerva_math has it. */
export const MATH_FORM: PromptForm = Object.freeze({
  render: (problem: string) => `Problem:\n${problem}\n\nSolution:`,
  stop: ["Problem:"],
});

/** Asked for in conversations, where no shot shows the form. */
const INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}.";

export function mathItem(row: DataRow): GenerationItem {
  const question = row.text("problem");
  const answer = row.text("answer");
  const subject = row.get("subject");
  return {
    kind: "generation",
    id: row.id,
    ...(typeof subject === "string" && { group: subject }),
    question,
    messages: [{ role: "user", content: `${question}\n\n${INSTRUCTION}` }],
    judge(text) {
      const given = finalAnswer(text);
      if (given === null) return { exact_match: 0, equivalent: 0 };
      const marked = `\\boxed{${given}}`;
      const exact = tidied(given) === tidied(answer);
      return {
        exact_match: Number(exact),
        equivalent: Number(exact || isRightAnswer(marked, { answer, prompt: question })),
      };
    },
  };
}

export function mathShot(row: DataRow): Shot {
  return { question: row.text("problem"), answer: row.text("solution") };
}

/** What the last `\boxed` holds, or else what Minerva's closing sentence says; null where there is neither. */
export function finalAnswer(text: string): string | null {
  const start = Math.max(text.lastIndexOf("\\boxed{"), text.lastIndexOf("\\fbox{"));
  if (start >= 0) {
    const from = text.indexOf("{", start) + 1;
    let depth = 1;
    for (let at = from; at < text.length; at++) {
      if (text[at] === "{") depth++;
      else if (text[at] === "}" && --depth === 0) return text.slice(from, at).trim();
    }
  }
  const said = /The final answer is (.*?)\. I hope it is correct/s.exec(text)?.[1];
  return said === undefined ? null : said.trim().replace(/^\$(.*)\$$/s, "$1");
}

/** LaTeX without what changes its look alone. */
function tidied(latex: string): string {
  return latex.replace(/\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[!,;: ]|\$|\s|\.$/g, "")
    .replace(/\\[dt]frac/g, "\\frac")
    .replace(/\\frac(\d)(\d)/g, "\\frac{$1}{$2}")
    .replace(/\\(?:text|mbox|mathrm)\{([^{}]*)\}/g, "$1")
    .replace(/\^\{?\\circ\}?/g, "")
    .replace(/\\%|%/g, "")
    .replace(/^[a-zA-Z]=/, "")
    .replace(/(\d),(?=\d{3}(?!\d))/g, "$1");
}
