/** What a model solves of held-out problems: greedy answers, judged by the independent checkers. */

import { isRight } from "./scorer.ts";
import { type Prompt, sampleOf } from "./prompts.ts";
import type { RolloutEngine } from "./rollout.ts";

export interface FamilyResult {
  readonly right: number;
  readonly problems: number;
}

export interface EvaluationResult extends FamilyResult {
  /** Share of problems that are solved. */
  readonly accuracy: number;
  /** Answers that were cut off. */
  readonly cutOff: number;
  /** Tokens that were read and written. */
  readonly tokens: number;
  readonly families: Readonly<Record<string, FamilyResult>>;
  /** The first problem that is not solved, or else the first one, for people. */
  readonly example: { readonly prompt: string; readonly completion: string };
}

export interface EvaluationOptions {
  readonly maxTokens: number;
  readonly endTokens: readonly number[];
  readonly decode: (ids: readonly number[]) => string;
  readonly onProgress?: (done: number) => void;
}

export async function evaluate(
  engine: RolloutEngine,
  { prompts, ...options }: EvaluationOptions & { prompts: readonly Prompt[] },
): Promise<EvaluationResult> {
  const requests = prompts.map(({ ids }) => ({ prompt: ids, seed: 0 }));
  const answers = await engine.answer(requests, { ...options, temperature: 0, topP: 1 });
  const families: Record<string, { right: number; problems: number }> = {};
  let tokens = 0;
  let wrong = -1;
  for (const [i, { answer }] of answers.entries()) {
    const prompt = prompts[i];
    const family = families[prompt.family] ??= { right: 0, problems: 0 };
    family.problems++;
    if (isRight(sampleOf(prompt, options.decode(answer)))) family.right++;
    else if (wrong < 0) wrong = i;
    tokens += prompt.ids.length + answer.length;
  }
  const shown = Math.max(0, wrong);
  const right = Object.values(families).reduce((sum, { right }) => sum + right, 0);
  return {
    ...{ right, problems: prompts.length, accuracy: right / Math.max(1, prompts.length) },
    ...{ cutOff: answers.filter(({ ended }) => !ended).length, tokens, families },
    example: { prompt: prompts[shown].text, completion: options.decode(answers[shown].answer) },
  };
}
