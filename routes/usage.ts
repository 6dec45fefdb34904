/** What an answer says of its cost: `usage`, `timings`, and the header that names the cache's part. */

import type { ChoiceAccount, Generation } from "./generation.ts";

/** Token counts in the names of OpenAI's and DeepSeek's clients, as far as the answer has come. */
export function wireUsage(generation: Generation) {
  const promptTokens = generation.promptTokens();
  const completionTokens = generation.completionTokens();
  const { memory = 0, store = 0 } = generation.promptCounts() ?? {};
  const cached = memory + store;
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_cache_hit_tokens: cached,
    prompt_cache_miss_tokens: promptTokens - cached,
    prompt_tokens_details: { cached_tokens: cached },
    completion_tokens_details: { reasoning_tokens: generation.reasoningTokens() },
  };
}

function rounded(value: number): number {
  return Math.round(value * 1_000) / 1_000;
}

/** `{name}_ms`, and the speed in both directions; zeros where nothing was done. */
function wirePhase<const Name extends string>(name: Name, { n, ms }: { n: number; ms: number }) {
  return {
    [`${name}_n`]: n,
    [`${name}_ms`]: rounded(ms),
    [`${name}_per_token_ms`]: rounded(n > 0 ? ms / n : 0),
    [`${name}_per_second`]: rounded(ms > 0 ? n * 1_000 / ms : 0),
  };
}

/**
 * Times in llama.cpp's names, and `queue_ms` and `restore_ms`. With several choices counts and times are
 * sums over them, but for these two, which are the longest: the speeds are those of one choice.
 */
export function wireTimings({ choices }: Generation) {
  const sum = (of: (choice: ChoiceAccount) => number | undefined) =>
    choices.reduce((sum, choice) => sum + (of(choice) ?? 0), 0);
  const longest = (of: (choice: ChoiceAccount) => number | undefined) =>
    rounded(choices.reduce((most, choice) => Math.max(most, of(choice) ?? 0), 0));
  const cached = sum(({ cached }) => cached === undefined ? 0 : cached.memory + cached.store);
  return {
    queue_ms: longest(({ timings }) => timings?.queueMs),
    restore_ms: longest(({ timings }) => timings?.restoreMs),
    cache_n: cached,
    ...wirePhase("prompt", {
      n: sum(({ promptTokens }) => promptTokens) - cached,
      ms: sum(({ timings }) => timings?.prefillMs),
    }),
    ...wirePhase("predicted", {
      n: sum(({ usage }) => usage?.completionTokens),
      ms: sum(({ timings }) => timings?.decodeMs),
    }),
    draft_n: sum(({ speculation }) => speculation?.drafted),
    draft_n_accepted: sum(({ speculation }) => speculation?.accepted),
  };
}

/** `x-sluice-cache`: whence the prompts' tokens came; "pending" while that is not known. */
export function cacheHeader(generation: Generation): string {
  const counts = generation.promptCounts();
  if (counts === undefined) return "pending";
  const { tokens, memory, store } = counts;
  return `memory=${memory}; store=${store}; miss=${tokens - memory - store}`;
}
