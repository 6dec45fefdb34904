/**
 * `POST /get_reward`: rewards of completions by the functions that train our own models, in the protocol
 * of OpenRLHF's remote reward models (docs/reward.md).
 */

import type { Context } from "hono";
import {
  createJudge,
  type Judgement,
  REWARD_NAMES,
  type RewardName,
  type RewardWeights,
} from "../src/training/reward/mod.ts";
import { readJsonObject } from "./body.ts";
import { fieldError } from "./fields.ts";
import { readSamples, readWeights } from "./reward_request.ts";
import type { Serving } from "./serving.ts";

/** Milliseconds of judging after which the event loop goes round. */
const TURN_MS = 5;

export interface RewardOptions {
  readonly serving: Serving;
  /** For requests that name none. */
  readonly weights: RewardWeights;
}

export async function getReward(
  context: Context,
  { serving, weights }: RewardOptions,
): Promise<Response> {
  serving.model();
  serving.enter(context);
  const judge = createJudge(readWeights(new URL(context.req.url).searchParams) ?? weights);
  const body = await readJsonObject(context.req.raw, serving.maxBodyBytes);
  const samples = readSamples(body);
  return await serving.answer(context, async (signal) => {
    const judged: Judgement[] = [];
    let turn = -Infinity;
    for (const [i, sample] of samples.entries()) {
      if (performance.now() - turn > TURN_MS) {
        await serving.turns.take();
        signal.throwIfAborted();
        turn = performance.now();
      }
      const judgement = judge(sample);
      if (judgement.reward === null) {
        const must = "one that the weighed functions can judge by; efficiency wants a solution";
        throw fieldError(`labels[${i}]`, (body.labels as unknown[])[i], must);
      }
      judged.push(judgement);
    }
    return wireRewards(judged);
  });
}

/**
 * The functions that have a value for every prompt. OpenRLHF batches answers to several requests by the
 * names that the first of them has in `extra_logs`, so all have the same ones there, and numbers only.
 */
const ALWAYS: readonly RewardName[] = ["solution_accuracy", "reasoning_clarity", "format"];

/** `functions` has all of them, with null where one has no value for a prompt. */
function wireRewards(judged: readonly Judgement[]) {
  const columns = (names: readonly RewardName[]) =>
    Object.fromEntries(names.map((name) => [name, judged.map(({ values }) => values[name])]));
  return {
    rewards: judged.map(({ reward }) => reward),
    scores: judged.map(({ values, reward }) => values.solution_accuracy ?? reward),
    extra_logs: columns(ALWAYS),
    functions: columns(REWARD_NAMES),
  };
}
