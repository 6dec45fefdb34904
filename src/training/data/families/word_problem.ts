/** Templated word problems: a story of `word_templates.ts` with names, things and numbers. */

import type { Family } from "../problem.ts";
import { Working } from "../working.ts";
import { WORD_TEMPLATES } from "./word_templates.ts";

export const wordProblem: Family = {
  name: "word_problem",
  levels: WORD_TEMPLATES.length,
  about: "short stories of one step (levels 1 and 2), two steps (3) and more (4)",
  make(draws, { difficulty, notation }) {
    const template = draws.pick(WORD_TEMPLATES[difficulty - 1]);
    const working = new Working(notation);
    const { prompts, reply, answer, numbers } = template.make(draws, working);
    return {
      // Who and what it is about makes no other problem of it.
      key: `word_problem ${template.name} ${numbers.join(" ")}`,
      prompt: draws.phrase(prompts),
      steps: working.lines,
      reply,
      answer: String(answer),
    };
  },
};
