/** What `/metrics` tells of the engine's own counts, which are read when asked. */

import { STEP_SIZES } from "../src/engine/step_sizes.ts";
import type { EngineStats, RoutingStats } from "../src/engine/types.ts";
import { type Family, histogramFamily, type Sample } from "../src/server/metrics.ts";

export interface EngineCounts {
  readonly stats: EngineStats;
  readonly routing: RoutingStats;
}

export function engineFamilies({ stats, routing }: EngineCounts): Family[] {
  return [...statsFamilies(stats), ...expertFamilies(routing)];
}

function single(
  type: "counter" | "gauge",
  { name, help, value }: { name: string; help: string; value: number },
): Family {
  return { name, help, type, samples: [{ value }] };
}

function gauge(name: string, help: string, value: number): Family {
  return single("gauge", { name, help, value });
}

function counter(name: string, help: string, value: number): Family {
  return single("counter", { name, help, value });
}

/** A sample for each name under `label`. */
function byLabel(label: string, values: Readonly<Record<string, number>>): Sample[] {
  return Object.entries(values).map(([name, value]) => ({ labels: { [label]: name }, value }));
}

function statsFamilies(stats: EngineStats): Family[] {
  const { pages, prefixCache, speculation, steps } = stats;
  const found = prefixCache.memory + prefixCache.store;
  return [
    gauge("vllm:num_requests_running", "Choices that have a slot.", stats.running),
    gauge("vllm:num_requests_waiting", "Choices that wait for one.", stats.waiting),
    gauge(
      "vllm:kv_cache_usage_perc",
      "Share of the KV cache's pages that running choices hold, from 0 to 1.",
      pages.total > 0 ? pages.used / pages.total : 0,
    ),
    counter(
      "vllm:prefix_cache_queries_total",
      "Prompt tokens looked for in the prefix cache.",
      prefixCache.queried,
    ),
    counter("vllm:prefix_cache_hits_total", "Prompt tokens found there.", found),
    counter(
      "vllm:num_preemptions_total",
      "Choices that gave way to others and went on later.",
      stats.preemptions,
    ),
    counter("vllm:prompt_tokens_total", "Prompt tokens of all choices.", stats.promptTokens),
    counter("vllm:generation_tokens_total", "Tokens generated.", stats.completionTokens),
    counter("vllm:spec_decode_num_draft_tokens_total", "Tokens guessed.", speculation.drafted),
    counter(
      "vllm:spec_decode_num_accepted_tokens_total",
      "Guessed tokens that were right.",
      speculation.accepted,
    ),
    histogramFamily({
      name: "vllm:iteration_tokens_total",
      help: "Tokens that a step computed: of prompts, of answers, and guessed ones.",
    }, { bounds: STEP_SIZES, counts: steps.bySize, sum: steps.rows }),
    {
      name: "sluice:kv_pages",
      help: "Pages of the KV cache: held by running choices, kept for later ones, free.",
      type: "gauge",
      samples: byLabel("state", {
        used: pages.used,
        kept: pages.kept,
        free: pages.total - pages.used - pages.kept,
      }),
    },
    ...storeFamilies(stats),
  ];
}

function storeFamilies({ store }: EngineStats): Family[] {
  if (store === undefined) return [];
  const states = ["ready", "opening", "unavailable"];
  return [
    {
      name: "sluice:store_state",
      help: "1 at the state that the prefix cache's store is in.",
      type: "gauge",
      samples: byLabel(
        "state",
        Object.fromEntries(states.map((state) => [state, state === store.state ? 1 : 0])),
      ),
    },
    gauge("sluice:store_entries", "Entries in the store.", store.entries),
    gauge("sluice:store_bytes", "Bytes that they take.", store.bytes),
    {
      name: "sluice:store_pages_total",
      help:
        "Pages read, written, not written since the queue was full, evicted, refused as damaged.",
      type: "counter",
      samples: byLabel("what", {
        read: store.pagesRead,
        written: store.pagesWritten,
        dropped: store.pagesDropped,
        evicted: store.pagesEvicted,
        refused: store.pagesRefused,
      }),
    },
    counter("sluice:store_errors_total", "Calls of the store that failed.", store.errors),
  ];
}

/** Sums over the layers, which `/v1/moe/stats` tells apart. */
function expertFamilies({ layers }: RoutingStats): Family[] {
  const traffics = layers.flatMap(({ traffic }) => traffic ?? []);
  if (traffics.length === 0) return [];
  const sum = (of: (traffic: (typeof traffics)[number]) => number) =>
    traffics.reduce((sum, traffic) => sum + of(traffic), 0);
  return [
    gauge(
      "sluice:experts_resident",
      "Routed experts in memory.",
      sum(({ resident }) => resident),
    ),
    {
      name: "sluice:experts_chosen_total",
      help: "Chosen experts that were in memory, had been read ahead, and were waited for.",
      type: "counter",
      samples: byLabel("found", {
        memory: sum(({ hits }) => hits),
        ahead: sum(({ prefetched }) => prefetched),
        waited: sum(({ misses }) => misses),
      }),
    },
    counter(
      "sluice:expert_bytes_read_total",
      "Bytes of experts read from the file or URL.",
      sum(({ bytesRead }) => bytesRead),
    ),
  ];
}
