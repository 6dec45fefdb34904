import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Hono } from "hono";
import { createApp } from "../../routes/mod.ts";
import { ChatTemplate } from "../../src/chat/mod.ts";
import { CapacityError, RequestError } from "../../src/errors.ts";
import type { TextModel } from "../../src/text/types.ts";
import {
  chat,
  complete,
  events,
  fixture,
  type Json,
  post,
  stream,
  until,
  USER,
} from "./_support.ts";

function isApiError(body: Json): boolean {
  const { message, type, param, code } = body.error;
  return typeof message === "string" && typeof type === "string" &&
    (param === null || typeof param === "string") && (code === null || typeof code === "string") &&
    Object.keys(body).join() === "error" && Object.keys(body.error).length === 4;
}

Deno.test("unknown routes are 404 and wrong methods 405, in the API's shape", async () => {
  const { app } = fixture();
  const cases: [string, string, number][] = [
    ["GET", "/", 404],
    ["GET", "/v2/models", 404],
    ["POST", "/v1/embeddings", 404],
    ["GET", "/v1/chat/completions", 405],
    ["PUT", "/completions", 405],
    ["POST", "/v1/models", 405],
    ["DELETE", "/health", 405],
    ["POST", "/tokenizer_info", 405],
    ["GET", "/v1/models/other", 404],
    ["GET", "/%", 404],
  ];
  for (const [method, path, status] of cases) {
    const response = await app.request(path, { method });
    assertEquals(response.status, status, `${method} ${path}`);
    assert(isApiError(await response.json()), `${method} ${path}`);
    if (status === 405) assert(response.headers.get("allow") !== null);
  }
});

Deno.test("models are listed and shown, with and without /v1", async () => {
  const { app } = fixture();
  for (const path of ["/v1/models", "/models"]) {
    const { object, data } = await (await app.request(path)).json();
    assertEquals([object, data.length, data[0].id, data[0].object], ["list", 1, "tiny", "model"]);
    assertEquals((await (await app.request(`${path}/tiny`)).json()).id, "tiny");
  }
});

Deno.test("a HEAD request gets the headers of a GET and no body", async () => {
  const { app } = fixture();
  const response = await app.request("/health", { method: "HEAD" });
  assertEquals([response.status, await response.text()], [200, ""]);
});

Deno.test("while the model loads, health is 503 and requests are told to come back", async () => {
  const { model } = fixture();
  const loading = Promise.withResolvers<TextModel>();
  const app = createApp({ model: loading.promise, modelId: "tiny" });
  const health = await app.request("/health");
  assertEquals([health.status, await health.json()], [503, { status: "loading" }]);
  const response = await post(app, "/v1/chat/completions", { messages: USER });
  assertEquals([response.status, response.headers.get("retry-after")], [503, "1"]);
  assertEquals((await response.json()).error.code, "model_loading");
  assertEquals((await app.request("/v1/models")).status, 200);
  loading.resolve(model);
  await loading.promise;
  assertEquals((await app.request("/health")).status, 200);
  await chat(app);
});

Deno.test("a model that does not load leaves a server that says so", async () => {
  const app = createApp({ model: Promise.reject(new Error("secret")), modelId: "tiny" });
  await new Promise((resolve) => setTimeout(resolve, 0));
  const health = await app.request("/health");
  assertEquals([health.status, await health.json()], [503, { status: "failed" }]);
  const { error } = await chat(app, {}, 503);
  assertEquals(error.code, "model_failed");
});

Deno.test("a prompt longer than the context is refused with both numbers", async () => {
  const { app, engine } = fixture({ contextLength: 40 });
  const prompt = Array.from({ length: 40 }, () => 5);
  const { error } = await complete(app, { prompt }, 400);
  assertStringIncludes(error.message, "40 tokens");
  assertStringIncludes(error.message, "at most 40");
  assertEquals([error.param, error.code], ["prompt", "context_length_exceeded"]);
  const chatError =
    (await chat(app, { messages: [{ role: "user", content: "x".repeat(50) }] }, 400)).error;
  assertEquals([chatError.param, chatError.code], ["messages", "context_length_exceeded"]);
  assertStringIncludes(chatError.message, "fewer than 40");
  const asked = (await complete(app, { prompt: [5, 6], max_tokens: 39 }, 400)).error;
  assertStringIncludes(asked.message, "2 tokens long and 39 more");
  assertEquals(engine.requests.length, 0);
  await complete(app, { prompt, max_tokens: 0 });
  await complete(app, { prompt: [5, 6], max_tokens: 38 });
});

Deno.test("a conversation that the template refuses or drowns in is the client's error", async () => {
  const refusing = new ChatTemplate("{{ raise_exception('roles must alternate') }}");
  const { error } = await chat(fixture({ template: refusing }).app, {}, 400);
  assertEquals([error.message, error.param], ["roles must alternate", "messages"]);
  const growing = "{% for i in range(99999) %}{{ messages[0]['content'] }}{% endfor %}";
  const { app } = fixture({ template: new ChatTemplate(growing) });
  const messages = [{ role: "user", content: "x".repeat(1000) }];
  assertEquals((await chat(app, { messages }, 400)).error.param, "messages");
});

Deno.test("a model without a template of its own chats in ChatML and names none", async () => {
  const template = new ChatTemplate("{{ messages[0]['content'] }}", { isFallback: true });
  const { app, model } = fixture({ template });
  await chat(app);
  assertEquals(model.hasTemplate, false);
  const info = await (await app.request("/tokenizer_info")).json();
  assertEquals(info.chat_template, null);
});

Deno.test("a full engine is 503 with Retry-After, streamed or not", async () => {
  const { app } = fixture({ answer: [new CapacityError("cannot generate: the queue is full")] });
  for (const fields of [{}, { stream: true }]) {
    const response = await post(app, "/v1/chat/completions", { messages: USER, ...fields });
    assertEquals([response.status, response.headers.get("retry-after")], [503, "1"]);
    const body = await response.json();
    assert(isApiError(body));
    assertEquals(body.error.code, "overloaded");
  }
});

Deno.test("what the engine refuses is the client's error, streamed or not", async () => {
  const refusal = new RequestError("cannot generate: wrong", { param: "prompt" });
  const { app, faults } = fixture({ answer: [refusal] });
  for (const fields of [{}, { stream: true }]) {
    const { error } = await complete(app, fields, 400);
    assertEquals(error.param, "prompt");
  }
  assertEquals(faults, []);
});

Deno.test("a fault is a 500 that says nothing, and is reported", async () => {
  const fault = new Error("reading /home/someone/model.gguf failed");
  const { app, faults } = fixture({ answer: [fault] });
  const { error } = await chat(app, {}, 500);
  assertEquals(error, { message: "internal error", type: "server_error", param: null, code: null });
  assertEquals(faults, [fault]);
});

Deno.test("a fault in the middle of a stream is an error event, without [DONE]", async () => {
  const fault = new Error("secret");
  const { app, faults, engine } = fixture({ answer: [72, 73, fault], tokenMs: 1 });
  for (const path of ["/v1/chat/completions", "/v1/completions"]) {
    const chunks = await stream(app, path, {});
    assert(isApiError(chunks.at(-1)));
    assertEquals(chunks.at(-1).error.message, "internal error");
    assert(chunks.length > 1 && !chunks.includes("[DONE]"));
  }
  assertEquals(faults, [fault, fault]);
  assertEquals(engine.running, 0);
});

Deno.test("a client that cancels its stream ends the engine's request", async () => {
  const { app, engine, faults } = fixture({ answer: "a".repeat(100), tokenMs: 5 });
  const response = await post(app, "/v1/chat/completions", { messages: USER, stream: true, n: 2 });
  const reader = response.body!.getReader();
  await reader.read();
  assertEquals(engine.running > 0, true);
  await reader.cancel();
  await until(() => engine.running === 0);
  assertEquals(faults, []);
});

Deno.test("a client that leaves before its answer ends the engine's request, streamed or not", async () => {
  const { app, engine, faults } = fixture({ answer: "a".repeat(100), tokenMs: 5, queueMs: 80 });
  for (const streamed of [false, true]) {
    const leave = new AbortController();
    const asked = app.request("/v1/completions", {
      method: "POST",
      body: JSON.stringify({ prompt: "hi", max_tokens: 100, stream: streamed }),
      signal: leave.signal,
    });
    await until(() => engine.running === 1);
    leave.abort();
    await until(() => engine.running === 0);
    assertEquals((await asked).status, 499);
  }
  assertEquals(faults, []);
});

Deno.test("one failing choice ends its siblings", async () => {
  const { app, engine } = fixture({
    slots: 4,
    tokenMs: 2,
    answer: (_, index) => index === 2 ? [72, new Error("broken")] : "a".repeat(200),
  });
  await complete(app, { n: 4, max_tokens: 200 }, 500);
  await until(() => engine.running === 0);
});

Deno.test("shutting down ends streams with an error event and refuses requests", async () => {
  const shutdown = new AbortController();
  const { app, engine } = fixture({
    answer: "a".repeat(100),
    tokenMs: 5,
    app: { shutdown: shutdown.signal },
  });
  const response = await post(app, "/v1/chat/completions", { messages: USER, stream: true });
  await until(() => engine.running === 1);
  shutdown.abort();
  const chunks = await events(response);
  assertEquals(chunks.at(-1).error.code, "shutting_down");
  assertEquals((await chat(app, {}, 503)).error.code, "shutting_down");
  assertEquals((await app.request("/health")).status, 503);
  await until(() => engine.running === 0);
});

Deno.test("a silent stream is kept alive with comments", async () => {
  const { app } = fixture({ answer: "ab", tokenMs: 120, app: { keepAliveMs: 20 } });
  const response = await post(app, "/v1/completions", { prompt: "hi", stream: true });
  const text = await response.text();
  assertStringIncludes(text, ": keep-alive\n\n");
  assertStringIncludes(text, "data: [DONE]");
});

Deno.test("the app can be mounted below a path of another one", async () => {
  const { app } = fixture();
  const outer = new Hono();
  outer.get("/", (context) => context.text("outer"));
  outer.route("/llm", app);
  assertEquals(await (await outer.request("/")).text(), "outer");
  const answer = await post(outer, "/llm/v1/chat/completions", { messages: USER });
  assertEquals((await answer.json()).choices[0].message.content, "Hello");
  const wrong = await post(outer, "/llm/v1/chat/completions", { messages: [] });
  assertEquals([wrong.status, isApiError(await wrong.json())], [400, true]);
});
