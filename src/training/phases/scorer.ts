/** What judges sampled answers. */

import { checkerOf } from "../data/checkers/mod.ts";
import { partsOf } from "../reward/completion.ts";
import type { Sample } from "../reward/types.ts";

export interface Judged {
  readonly reward: number;
  /** Each function's value by its name; null where it does not apply. */
  readonly values: Readonly<Record<string, number | null>>;
}

export interface Scorer {
  score(samples: readonly Sample[]): Promise<readonly Judged[]>;
}

/** Whether an answer is right by the independent checker of its family, or else the known answer itself. */
export function isRight({ prompt, completion, reference, opened = false }: Sample): boolean {
  const { answer, fault } = partsOf(completion, { opened });
  if (answer === "" || fault === "several blocks") return false;
  const checker = reference.family === undefined ? undefined : checkerOf(reference.family);
  if (checker !== undefined) return checker.isRight(prompt, answer);
  return answer.replace(/\.$/, "") === reference.answer;
}
