/**
 * What `/metrics` tells: vLLM's names where it has them, so that its dashboards fit, and `sluice:` for
 * the rest. Requests are counted here as their choices go on, the engine counts for itself
 * (`engine_metrics.ts`).
 */

import { Counter, Histogram, metricsPage } from "../src/server/metrics.ts";
import { type EngineCounts, engineFamilies } from "./engine_metrics.ts";
import type { ChoiceAccount, GenerationListener } from "./generation.ts";
import type { RequestRecord } from "./record.ts";

/** 1, 2.5 and 5 of each decade from a millisecond to an hour and more, in seconds. */
const SECONDS = bounds([1, 2.5, 5], { from: 1e-3, to: 5e3 });
/** 1, 2 and 5 of each decade, in tokens. */
const TOKENS = bounds([1, 2, 5], { from: 1, to: 2e5 });

function bounds(steps: readonly number[], { from, to }: { from: number; to: number }): number[] {
  const all: number[] = [];
  for (let decade = from; decade <= to; decade *= 10) {
    for (const step of steps) all.push(Number((decade * step).toPrecision(6)));
  }
  return all.filter((bound) => bound <= to);
}

function seconds(name: string, help: string): Histogram {
  return new Histogram({ name, help, bounds: SECONDS });
}

export class ServingMetrics implements GenerationListener {
  readonly #modelName: string;
  readonly #firstToken = seconds(
    "vllm:time_to_first_token_seconds",
    "From a request's arrival to a choice's first token.",
  );
  readonly #betweenTokens = seconds(
    "vllm:inter_token_latency_seconds",
    "Between two tokens of a choice.",
  );
  readonly #perOutputToken = seconds(
    "vllm:time_per_output_token_seconds",
    "As inter_token_latency_seconds, under its former name.",
  );
  readonly #meanPerOutputToken = seconds(
    "vllm:request_time_per_output_token_seconds",
    "A choice's mean time between tokens.",
  );
  readonly #whole = seconds(
    "vllm:e2e_request_latency_seconds",
    "From a request's arrival to a choice's end.",
  );
  readonly #queue = seconds("vllm:request_queue_time_seconds", "Waiting for a slot.");
  readonly #prefill = seconds("vllm:request_prefill_time_seconds", "Evaluating the prompt.");
  readonly #decode = seconds("vllm:request_decode_time_seconds", "From the prompt to the end.");
  readonly #restore = seconds(
    "sluice:request_restore_time_seconds",
    "Waiting for pages from the cache's store, as part of the queue time.",
  );
  readonly #promptTokens = new Histogram({
    name: "vllm:request_prompt_tokens",
    help: "Tokens of a choice's prompt.",
    bounds: TOKENS,
  });
  readonly #generationTokens = new Histogram({
    name: "vllm:request_generation_tokens",
    help: "Tokens of a choice's answer.",
    bounds: TOKENS,
  });
  readonly #maxGenerationTokens = new Histogram({
    name: "vllm:request_max_num_generation_tokens",
    help: "Tokens of the longest of a request's answers.",
    bounds: TOKENS,
  });
  readonly #success = new Counter({
    name: "vllm:request_success_total",
    help: "Choices that ended, by the reason.",
  });
  readonly #cached = new Counter({
    name: "sluice:cached_tokens_total",
    help: "Prompt tokens of started choices that were not computed, by where they were found.",
  });
  readonly #http = new Counter({
    name: "sluice:http_requests_total",
    help: "Answered requests, by route and status.",
  });

  constructor(modelName: string) {
    this.#modelName = modelName;
    for (const reason of ["stop", "length", "abort", "error"]) {
      this.#success.add(0, { finished_reason: reason });
    }
    for (const tier of ["memory", "store"]) this.#cached.add(0, { tier });
  }

  started({ cached }: ChoiceAccount): void {
    this.#cached.add(cached?.memory ?? 0, { tier: "memory" });
    this.#cached.add(cached?.store ?? 0, { tier: "store" });
  }

  firstToken(ms: number): void {
    this.#firstToken.observe(ms / 1_000);
  }

  tokens(count: number, gapMs: number): void {
    this.#betweenTokens.observe(gapMs / 1_000, count);
    this.#perOutputToken.observe(gapMs / 1_000, count);
  }

  done(choice: ChoiceAccount): void {
    const { usage, timings, finish, firstMs, lastMs = 0, promptTokens } = choice;
    const tokens = usage?.completionTokens ?? 0;
    this.#success.add(1, { finished_reason: finish ?? "stop" });
    this.#whole.observe(lastMs / 1_000);
    this.#promptTokens.observe(promptTokens);
    this.#generationTokens.observe(tokens);
    if (timings !== undefined) {
      this.#queue.observe(timings.queueMs / 1_000);
      this.#restore.observe(timings.restoreMs / 1_000);
      this.#prefill.observe(timings.prefillMs / 1_000);
      this.#decode.observe(timings.decodeMs / 1_000);
    }
    if (tokens > 1 && firstMs !== undefined) {
      this.#meanPerOutputToken.observe((lastMs - firstMs) / (tokens - 1) / 1_000);
    }
  }

  /** A request is over: choices that had begun and did not end by themselves were cut off. */
  ended({ status, route, generation, failure, left }: RequestRecord): void {
    this.#http.add(1, { route: route?.pattern ?? "none", status: String(status) });
    const reason = left || failure === undefined ? "abort" : "error";
    const choices = generation?.choices ?? [];
    const lengths = choices.flatMap(({ usage }) => usage?.completionTokens ?? []);
    if (lengths.length > 0) this.#maxGenerationTokens.observe(Math.max(...lengths));
    for (const { cached, finish } of choices) {
      if (cached !== undefined && finish === undefined) {
        this.#success.add(1, { finished_reason: reason });
      }
    }
  }

  /** Without an engine, which is while it loads, the requests alone. */
  page(engine?: EngineCounts): string {
    const instruments = [
      this.#firstToken,
      this.#betweenTokens,
      this.#perOutputToken,
      this.#meanPerOutputToken,
      this.#whole,
      this.#queue,
      this.#restore,
      this.#prefill,
      this.#decode,
      this.#promptTokens,
      this.#generationTokens,
      this.#maxGenerationTokens,
      this.#success,
      this.#cached,
      this.#http,
    ];
    const families = instruments.map((instrument) => instrument.family());
    if (engine !== undefined) families.push(...engineFamilies(engine));
    return metricsPage(families, { model_name: this.#modelName });
  }
}
