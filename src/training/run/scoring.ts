/** The rewards that a recipe asks for: our own functions by their weights, or a server's. */

import { TrainingError } from "../../errors.ts";
import type { Judged, Scorer } from "../phases/scorer.ts";
import { createJudge, PRESETS } from "../reward/reward.ts";
import type { Sample } from "../reward/types.ts";
import type { RewardRecipe } from "./recipe.ts";

export function openScorer({ preset, weights, url }: RewardRecipe): Scorer {
  if (url !== undefined) return new RemoteScorer(url);
  const used = weights ?? PRESETS[preset];
  const judge = createJudge(used);
  return {
    score: (samples) =>
      Promise.resolve(samples.map((sample): Judged => {
        const { reward, values } = judge(sample);
        // Where nothing judges a prompt, all answers to it are alike.
        return { reward: reward ?? 0, values };
      })),
  };
}

/** Answers that are sent at once. */
const ANSWERS_PER_REQUEST = 256;
const TIMEOUT_MS = 120_000;
const ATTEMPTS = 3;
const PAUSE_MS = 1000;

/** Asks a server that speaks OpenRLHF's protocol (its `--remote_rm_url`). */
class RemoteScorer implements Scorer {
  readonly #url: string;

  constructor(url: string) {
    this.#url = url;
  }

  async score(samples: readonly Sample[]): Promise<readonly Judged[]> {
    const judged: Judged[] = [];
    for (let from = 0; from < samples.length; from += ANSWERS_PER_REQUEST) {
      judged.push(...await this.#ask(samples.slice(from, from + ANSWERS_PER_REQUEST)));
    }
    return judged;
  }

  async #ask(samples: readonly Sample[]): Promise<Judged[]> {
    const body = JSON.stringify({
      query: samples.map(({ prompt, completion, opened }) =>
        `${prompt}${opened === true ? "<think>\n" : ""}${completion}`
      ),
      prompts: samples.map(({ prompt }) => prompt),
      labels: samples.map(({ reference }) => reference.answer ?? ""),
    });
    const rewards = await this.#rewards(body, samples.length);
    return rewards.map((reward) => ({ reward, values: { remote: reward } }));
  }

  async #rewards(body: string, count: number): Promise<number[]> {
    let fault = "";
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      if (attempt > 0) await new Promise((done) => setTimeout(done, PAUSE_MS * 2 ** attempt));
      try {
        const response = await fetch(this.#url, {
          ...{ method: "POST", headers: { "content-type": "application/json" }, body },
          signal: AbortSignal.timeout(TIMEOUT_MS),
        });
        const answer = await response.json();
        const rewards: unknown = answer?.rewards;
        const isRight = response.ok && Array.isArray(rewards) && rewards.length === count &&
          rewards.every((reward) => Number.isFinite(reward));
        if (isRight) return rewards;
        fault = `it answers ${response.status} with no ${count} finite rewards`;
      } catch (error) {
        fault = error instanceof Error ? error.message : String(error);
      }
    }
    throw new TrainingError(
      `cannot ask ${JSON.stringify(this.#url)} for rewards: ${fault}, must answer ` +
        `{"rewards": [...]} (${ATTEMPTS} attempts)`,
    );
  }
}
