/** The rewards that a recipe asks for: our own functions by their weights, or a server's. */

import type { Judged, Scorer } from "../phases/scorer.ts";
import { remoteRewards } from "../reward/remote.ts";
import { createJudge, PRESETS } from "../reward/reward.ts";
import type { RewardRecipe } from "./recipe.ts";

/** `key` is the API key that a server of rewards asks for. */
export function openScorer(
  { preset, weights, url, labels }: RewardRecipe,
  { key }: { key?: string } = {},
): Scorer {
  if (url !== undefined) return remoteScorer(url, { labels, key });
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

function remoteScorer(
  url: string,
  { labels, key }: { labels: RewardRecipe["labels"]; key: string | undefined },
): Scorer {
  const rewardsOf = remoteRewards({
    ...{ url, labels },
    ...(key !== undefined && { headers: { authorization: `Bearer ${key}` } }),
  });
  return {
    async score(samples) {
      const { rewards, functions } = await rewardsOf(samples);
      const columns = Object.entries(functions);
      return rewards.map((reward, i): Judged => ({
        reward,
        values: Object.fromEntries(columns.map(([name, values]) => [name, values[i]])),
      }));
    },
  };
}
