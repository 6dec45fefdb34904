/** Reasoning as lines of claims, each worked out by the checkers of the data. */

import { type Claim, claimsOf } from "../data/checkers/claims.ts";
import { checkerOf } from "../data/checkers/mod.ts";

export interface StepLine {
  readonly text: string;
  readonly claims: readonly Claim[];
}

/** Reasoning beyond these is not read at all, so that no text can make a judgement take long. */
const MAX_REASONING = 100_000;
const MAX_LINES = 2000;

/** Longer prompts are no problems of the families, whose checkers take time with what they read. */
const MAX_FAMILY_PROMPT = 2000;

/** The checker of the prompt's family, where there is one and the prompt can be one of it. */
export function familyChecker({ prompt, family }: { prompt: string; family?: string }) {
  return family !== undefined && prompt.length <= MAX_FAMILY_PROMPT ? checkerOf(family) : undefined;
}

/** `1.`, `2)`, `*` in front of a step. */
const LIST_MARK = /^(?:\d{1,3}[.)]|[*•])\s+(?=\S)/;

/** The lines that aren't blank; null where they are too many or too long together to be read. */
export function linesOf(reasoning: string): string[] | null {
  if (reasoning.length > MAX_REASONING) return null;
  const lines = reasoning.split("\n").map((line) => line.trim()).filter((line) => line !== "");
  return lines.length > MAX_LINES ? null : lines;
}

/** What each line claims. */
export function readSteps(
  lines: readonly string[],
  problem: { prompt: string; family?: string },
): StepLine[] {
  const checker = familyChecker(problem);
  return lines.map((text) => {
    const own = checker?.checkLine?.(problem.prompt, text) ?? null;
    if (own === null) return { text, claims: claimsOf(text.replace(LIST_MARK, "")) };
    const right = Array.from({ length: own.right }, () => ({ text, isRight: true }));
    return { text, claims: [...right, ...own.wrong.map((text) => ({ text, isRight: false }))] };
  });
}
