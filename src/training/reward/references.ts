/** Rows of a corpus as prompts to sample for, with what is known of their answers. */

import { type ChatDraft, promptOf } from "../data/rows.ts";
import { partsOf } from "./completion.ts";
import type { Sample } from "./types.ts";

/** The question of a row and its reference; the row's own reasoning is the shortest solution so far. */
export function problemOf(row: ChatDraft): Pick<Sample, "prompt" | "reference"> {
  const { answer, family, messages } = row;
  const { reasoning } = partsOf(messages.at(-1)?.content ?? "", { opened: false });
  return {
    prompt: promptOf(row),
    reference: {
      ...(answer !== undefined && { answer }),
      ...(family !== undefined && { family }),
      ...(reasoning !== "" && { solution: reasoning }),
    },
  };
}
