/** Rewards of completions; `docs/reward.md` defines each function. */

export { type BatchRewards, type ColumnReward, columnReward, type Columns } from "./source.ts";
export { localRewards, type LocalRewardsOptions, type RewardSource } from "./source.ts";
export { problemOf } from "./references.ts";
export { promptQuestion } from "./question.ts";
export { remoteRewards, type RemoteRewardsOptions } from "./remote.ts";
export {
  checkWeights,
  createJudge,
  isPreset,
  type Judgement,
  type PresetName,
  PRESETS,
  rewardValues,
  type RewardWeights,
} from "./reward.ts";
export {
  type Choice,
  type Reference,
  REWARD_NAMES,
  type RewardName,
  type RewardValues,
  type Sample,
} from "./types.ts";
