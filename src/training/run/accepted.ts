/** Accepted answers of a phase, read as a data recipe would read them. */

import { FormatError } from "../../errors.ts";
import { RECORD_FORMATS } from "../data/readers/records.ts";
import type { Draft } from "../data/rows.ts";

/** The drafts of all lines. FormatError for one that is no accepted answer. */
export async function recordsOf(
  lines: AsyncIterable<{ readonly text: string | null }>,
): Promise<Draft[]> {
  const drafts: Draft[] = [];
  for await (const { text } of lines) {
    const draft = RECORD_FORMATS.samples(JSON.parse(text ?? "{}"), {
      ...{ minReward: 0, textField: "text" },
    });
    if ("refused" in draft) {
      throw FormatError.of(
        "read accepted answers",
        `line ${drafts.length + 1}`,
        draft.refused,
        "an answer",
      );
    }
    drafts.push(draft);
  }
  return drafts;
}
