import { assert, assertEquals } from "@std/assert";
import { createApp } from "../../routes/mod.ts";
import type { TextModel } from "../../src/text/types.ts";
import { parsePrometheus, valueOf } from "../server/_prometheus.ts";
import { chat, complete, fixture, post, until, USER } from "./_support.ts";
import type { Hono } from "hono";

async function scrape(app: Hono) {
  const response = await app.request("/metrics");
  assertEquals(response.status, 200);
  assertEquals(response.headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  const families = parsePrometheus(await response.text());
  for (const { samples } of families.values()) {
    for (const { labels } of samples) assertEquals(labels.model_name, "tiny");
  }
  const value = (name: string, labels: Record<string, string> = {}) =>
    valueOf(families, { name, labels });
  return { families, value };
}

Deno.test("metrics have vLLM's names and kinds, and the engine's own counts", async () => {
  const { app } = fixture({
    stats: {
      promptTokens: 500,
      completionTokens: 70,
      store: {
        state: "unavailable",
        entries: 7,
        bytes: 4096,
        pagesRead: 1,
        pagesWritten: 2,
        pagesDropped: 3,
        pagesEvicted: 4,
        pagesRefused: 5,
        errors: 6,
      },
    },
  });
  const { families, value } = await scrape(app);
  const types = Object.fromEntries([...families].map(([name, { type }]) => [name, type]));
  const expected: [string, string, number | undefined][] = [
    ["vllm:num_requests_running", "gauge", 0],
    ["vllm:num_requests_waiting", "gauge", 0],
    ["vllm:kv_cache_usage_perc", "gauge", 0.25],
    ["vllm:prefix_cache_queries_total", "counter", 200],
    ["vllm:prefix_cache_hits_total", "counter", 100],
    ["vllm:num_preemptions_total", "counter", 2],
    ["vllm:prompt_tokens_total", "counter", 500],
    ["vllm:generation_tokens_total", "counter", 70],
    ["vllm:spec_decode_num_draft_tokens_total", "counter", 8],
    ["vllm:spec_decode_num_accepted_tokens_total", "counter", 6],
    ["vllm:iteration_tokens_total", "histogram", undefined],
    ["vllm:request_success_total", "counter", 0],
    ["vllm:time_to_first_token_seconds", "histogram", undefined],
    ["vllm:inter_token_latency_seconds", "histogram", undefined],
    ["vllm:time_per_output_token_seconds", "histogram", undefined],
    ["vllm:e2e_request_latency_seconds", "histogram", undefined],
    ["vllm:request_queue_time_seconds", "histogram", undefined],
    ["vllm:request_prefill_time_seconds", "histogram", undefined],
    ["vllm:request_decode_time_seconds", "histogram", undefined],
    ["vllm:request_prompt_tokens", "histogram", undefined],
    ["vllm:request_generation_tokens", "histogram", undefined],
    ["vllm:request_max_num_generation_tokens", "histogram", undefined],
    ["sluice:store_entries", "gauge", 7],
    ["sluice:store_bytes", "gauge", 4096],
    ["sluice:store_errors_total", "counter", 6],
  ];
  for (const [name, type, is] of expected) {
    assertEquals([name, types[name], value(name)], [name, type, is]);
  }
  const states = ["ready", "opening", "unavailable"].map((state) =>
    value("sluice:store_state", { state })
  );
  assertEquals(states, [0, 0, 1]);
  const pages = ["read", "written", "dropped", "evicted", "refused"].map((what) =>
    value("sluice:store_pages_total", { what })
  );
  assertEquals(pages, [1, 2, 3, 4, 5]);
  const kv = ["used", "kept", "free"].map((state) => value("sluice:kv_pages", { state }));
  assertEquals(kv, [25, 10, 65]);
  const steps = ["1", "8", "32", "64", "1024", "+Inf"].map((le) =>
    value("vllm:iteration_tokens_total_bucket", { le })
  );
  assertEquals(steps, [3, 5, 5, 6, 6, 6]);
  const totals = ["sum", "count"].map((of) => value(`vllm:iteration_tokens_total_${of}`));
  assertEquals(totals, [75, 6]);
});

Deno.test("each choice is counted once: its times, tokens, reason and what was cached", async () => {
  const { app } = fixture({ answer: "Hello", tokenMs: 3, cached: () => ({ memory: 8, store: 2 }) });
  const whole = await chat(app, { n: 2 });
  await complete(app, { prompt: new Array(12).fill(5), max_tokens: 3 });
  const body = { messages: USER, stream: true, stop: "ell" };
  await (await post(app, "/v1/chat/completions", body)).text();
  await chat(app, { temperature: 9 }, 400);
  const { value } = await scrape(app);
  assertEquals(value("vllm:request_success_total", { finished_reason: "stop" }), 3);
  assertEquals(value("vllm:request_success_total", { finished_reason: "length" }), 1);
  assertEquals(value("vllm:request_success_total", { finished_reason: "abort" }), 0);
  for (
    const name of [
      "time_to_first_token_seconds",
      "e2e_request_latency_seconds",
      "request_queue_time_seconds",
      "request_prefill_time_seconds",
      "request_decode_time_seconds",
      "request_prompt_tokens",
      "request_generation_tokens",
    ]
  ) assertEquals(value(`vllm:${name}_count`), 4, name);
  const tokens = value("vllm:request_generation_tokens_sum")!;
  assert(tokens > whole.usage.completion_tokens + 3);
  assertEquals(value("vllm:request_max_num_generation_tokens_count"), 3);
  const longest = value("vllm:request_max_num_generation_tokens_sum")!;
  assertEquals(longest, tokens - whole.usage.completion_tokens / 2);
  assertEquals(value("vllm:inter_token_latency_seconds_count"), tokens - 4);
  assertEquals(value("vllm:time_per_output_token_seconds_count"), tokens - 4);
  const gap = value("vllm:inter_token_latency_seconds_sum")! / (tokens - 4);
  assert(gap > 0.0025 && gap < 0.1, `${gap} s between tokens`);
  assertEquals(value("sluice:cached_tokens_total", { tier: "memory" }), 32);
  assertEquals(value("sluice:cached_tokens_total", { tier: "store" }), 8);
  const http = (status: string, route: string) =>
    value("sluice:http_requests_total", { status, route });
  assertEquals(http("200", "/v1/chat/completions"), 2);
  assertEquals(http("400", "/v1/chat/completions"), 1);
  assertEquals(http("200", "/v1/completions"), 1);
});

Deno.test("answers that are cut off count as aborted, failed ones as errors", async () => {
  const { app, engine } = fixture({
    answer: (_, index) => index === 1 ? [72, new Error("broken")] : "a".repeat(100),
    tokenMs: 5,
  });
  const body = { messages: USER, stream: true };
  const reader = (await post(app, "/v1/chat/completions", body)).body!.getReader();
  await reader.read();
  await reader.cancel();
  await until(() => engine.running === 0);
  await chat(app, {}, 500);
  const { value } = await scrape(app);
  const reasons = ["abort", "error", "stop"].map((reason) =>
    value("vllm:request_success_total", { finished_reason: reason })
  );
  assertEquals(reasons, [1, 1, 0]);
});

Deno.test("what paging experts in costs is summed over the layers", async () => {
  const { app, engine } = fixture();
  const traffic = {
    resident: 4,
    hits: 10,
    prefetched: 3,
    misses: 2,
    predictions: { made: 0, right: 0 },
    bytesRead: 1_000,
  };
  const layer = { layer: 1, experts: 8, topK: 2, load: [0], traffic };
  engine.routing = { counting: true, tokens: 1, layers: [layer, { ...layer, layer: 2 }] };
  const { value } = await scrape(app);
  const chosen = ["memory", "ahead", "waited"].map((found) =>
    value("sluice:experts_chosen_total", { found })
  );
  assertEquals(chosen, [20, 6, 4]);
  assertEquals([value("sluice:experts_resident"), value("sluice:expert_bytes_read_total")], [
    8,
    2_000,
  ]);
});

Deno.test("metrics are there while the model loads and when its engine has ended, or not at all", async () => {
  const loading = Promise.withResolvers<TextModel>();
  const app = createApp({ model: loading.promise, modelId: "tiny" });
  await chat(app, {}, 503);
  const early = await scrape(app);
  assertEquals(early.families.has("vllm:num_requests_running"), false);
  assertEquals(early.value("sluice:http_requests_total", { status: "503" }), 1);
  const ended = fixture();
  ended.engine.routing = new Error("ended");
  assertEquals((await scrape(ended.app)).value("vllm:num_requests_running"), 0);
  const off = fixture({ app: { metrics: false } });
  assertEquals((await off.app.request("/metrics")).status, 404);
  await chat(off.app);
});

Deno.test("who asks for what is not there adds no series, however many paths there are", async () => {
  const { app } = fixture();
  for (let i = 0; i < 20; i++) {
    await (await app.request(`/v1/nothing-${i}`)).body?.cancel();
    await (await app.request(`/v1/models/other-${i}`)).body?.cancel();
  }
  const { families, value } = await scrape(app);
  assertEquals(families.get("sluice:http_requests_total")?.samples.length, 2);
  assertEquals(value("sluice:http_requests_total", { route: "none", status: "404" }), 20);
});
