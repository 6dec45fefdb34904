import { assert, assertEquals } from "@std/assert";
import { chat, complete, events, fixture, type Json, post, stream, USER } from "./_support.ts";

const CACHED = { cached: () => ({ memory: 10, store: 4 }) };

Deno.test("usage says what was cached, in OpenAI's and DeepSeek's names", async () => {
  const { app, engine } = fixture(CACHED);
  const completion = () => complete(app, { prompt: new Array(20).fill(5) });
  for (const ask of [() => chat(app), completion]) {
    const answer = await ask();
    const prompt = engine.requests.at(-1)!.tokens.length;
    assertEquals(answer.usage.prompt_tokens, prompt);
    assertEquals(answer.usage.prompt_cache_hit_tokens, 14);
    assertEquals(answer.usage.prompt_cache_miss_tokens, prompt - 14);
    assertEquals(answer.usage.prompt_tokens_details, { cached_tokens: 14 });
  }
});

Deno.test("choices count their prompt once, with what the first of them found", async () => {
  const { app } = fixture({
    slots: 1,
    cached: ({ tokens }) => ({ memory: tokens[0] === 5 ? 0 : tokens.length - 1, store: 0 }),
  });
  const prompt = [new Array(30).fill(5), new Array(50).fill(6)];
  const { usage } = await complete(app, { prompt, n: 2 });
  assertEquals([usage.prompt_tokens, usage.prompt_cache_hit_tokens], [80, 49]);
  let asked = 0;
  const growing = fixture({ cached: () => ({ memory: asked++ === 0 ? 0 : 17, store: 0 }) });
  assertEquals((await chat(growing.app, { n: 3 })).usage.prompt_cache_hit_tokens, 0);
});

Deno.test("the header x-sluice-cache says whence the prompt came, streamed or not", async () => {
  const { app, engine } = fixture(CACHED);
  for (const streamed of [false, true]) {
    const body = { messages: USER, stream: streamed };
    const response = await post(app, "/v1/chat/completions", body);
    await response.text();
    const miss = engine.requests.at(-1)!.tokens.length - 14;
    assertEquals(response.headers.get("x-sluice-cache"), `memory=10; store=4; miss=${miss}`);
  }
  const other = await app.request("/v1/models");
  assertEquals(other.headers.get("x-sluice-cache"), null);
});

Deno.test("a stream that waits for a slot gets its headers before it is known what is cached", async () => {
  const { app } = fixture({ ...CACHED, queueMs: 250 });
  const body = { messages: USER, stream: true };
  const started = performance.now();
  const response = await post(app, "/v1/chat/completions", body);
  assert(performance.now() - started < 240);
  assertEquals(response.headers.get("x-sluice-cache"), "pending");
  assertEquals((await events(response)).at(-1), "[DONE]");
});

Deno.test("timings have llama.cpp's names and this server's two, whole or in the last chunk", async () => {
  const { app, engine } = fixture({ ...CACHED, answer: "Hello", queueMs: 5 });
  const whole = await chat(app);
  const prompt = engine.requests[0].tokens.length;
  const tokens = whole.usage.completion_tokens;
  const expected = {
    queue_ms: 5,
    restore_ms: 0,
    cache_n: 14,
    prompt_n: prompt - 14,
    prompt_ms: 1,
    prompt_per_token_ms: Math.round(1e3 / (prompt - 14)) / 1e3,
    prompt_per_second: (prompt - 14) * 1_000,
    predicted_n: tokens,
    predicted_ms: 1,
    predicted_per_token_ms: Math.round(1e3 / tokens) / 1e3,
    predicted_per_second: tokens * 1_000,
    draft_n: 4,
    draft_n_accepted: 3,
  };
  assertEquals(whole.timings, expected);
  for (const path of ["/v1/chat/completions", "/v1/completions"]) {
    for (const options of [{}, { stream_options: { include_usage: true } }]) {
      const chunks = (await stream(app, path, options)).slice(0, -1);
      const timed = chunks.filter((chunk: Json) => chunk.timings !== undefined);
      assertEquals(timed, [chunks.at(-1)]);
      assertEquals(timed[0].timings.predicted_n, tokens);
    }
  }
  const chunks = (await stream(app, "/v1/chat/completions", { n: 2 })).slice(0, -1);
  assertEquals(chunks.map((chunk: Json) => chunk.timings?.predicted_n).filter(Boolean), [
    2 * tokens,
  ]);
});

Deno.test("an answer that a stop string ends has timings and what was cached as well", async () => {
  const { app } = fixture({ ...CACHED, answer: "abcdefgh", tokenMs: 4, queueMs: 30 });
  const answer = await chat(app, { stop: "ef" });
  assertEquals([answer.choices[0].message.content, answer.choices[0].finish_reason], [
    "abcd",
    "stop",
  ]);
  assertEquals([answer.usage.prompt_cache_hit_tokens, answer.timings.cache_n], [14, 14]);
  const { queue_ms: queue, predicted_ms: decode, predicted_n: tokens } = answer.timings;
  assert(queue >= 25 && queue < 500, `${queue} ms in the queue`);
  assert(decode >= 4 * (tokens - 1) && decode < 500, `${decode} ms for ${tokens} tokens`);
});

Deno.test("a stream tells its usage at the end, or with every chunk", async () => {
  const { app } = fixture({ ...CACHED, answer: "abc" });
  for (const path of ["/v1/chat/completions", "/v1/completions"]) {
    const last = async (options: Json) =>
      (await stream(app, path, { stream_options: options })).slice(0, -1);
    const ended = await last({ include_usage: true });
    assertEquals(ended.at(-1).choices, []);
    assertEquals(ended.at(-1).usage.prompt_cache_hit_tokens, 14);
    for (const chunk of ended.slice(0, -1)) assertEquals(chunk.usage, null);
    const going = await last({ include_usage: true, continuous_usage_stats: true });
    const counts = going.map(({ usage }: Json) => usage.completion_tokens);
    assertEquals(counts, [...counts].sort((a, b) => a - b));
    assertEquals([counts.at(-1), counts.at(-1) > counts[0]], [
      ended.at(-1).usage.completion_tokens,
      true,
    ]);
    for (const chunk of await last({ continuous_usage_stats: true })) {
      assertEquals("usage" in chunk, false);
    }
  }
});
