/** Held-out problems of a corpus, by family, judged by the checkers that share nothing with the generators. */

import { checkerOf } from "../training/data/checkers/mod.ts";
import type { Row } from "../training/data/rows.ts";
import type { GenerationItem } from "./types.ts";

/** The row as a problem; null for one that nobody can judge. */
export function heldoutItem(row: Row): GenerationItem | null {
  if (row.kind !== "chat" || (row.answer === undefined && row.family === undefined)) return null;
  const messages = row.messages.slice(0, -1);
  if (messages.at(-1)?.role !== "user") return null;
  const question = messages.map(({ content }) => content).join("\n");
  const { answer, family } = row;
  const checker = family === undefined ? undefined : checkerOf(family);
  return {
    kind: "generation",
    id: row.id,
    group: family ?? row.source,
    question,
    messages,
    judge(text) {
      const given = text.trim();
      // A second block of thinking leaves open which answer is meant.
      if (given === "" || /<\/?think>/.test(given)) return { solved: 0 };
      const right = checker === undefined
        ? given.replace(/\.$/, "") === answer
        : checker.isRight(question, given);
      return { solved: Number(right) };
    },
  };
}
