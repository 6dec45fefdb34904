import { assert, assertEquals, assertMatch } from "@std/assert";
import { CapacityError } from "../../src/errors.ts";
import { chat, complete, events, fixture, post, until, USER } from "./_support.ts";

const PATH = "/v1/chat/completions";

Deno.test("a whole answer that takes long begins with blank lines and is JSON all the same", async () => {
  const { app } = fixture({ answer: "Hello", queueMs: 120, app: { keepAliveMs: 20 } });
  const response = await post(app, PATH, { messages: USER });
  assertEquals(response.status, 200);
  assertMatch(response.headers.get("content-type") ?? "", /^application\/json/);
  assertEquals(response.headers.get("x-sluice-cache"), "pending");
  const text = await response.text();
  assertMatch(text, /^\n{2,}\{/);
  assertEquals(JSON.parse(text).choices[0].message.content, "Hello");
});

Deno.test("a whole answer that comes in time has no blank line", async () => {
  const { app } = fixture({ queueMs: 30, app: { keepAliveMs: 2_000 } });
  assertMatch(await (await post(app, PATH, { messages: USER })).text(), /^\{/);
  const never = fixture({ queueMs: 30, app: { keepAliveMs: Infinity } });
  assertMatch(await (await post(never.app, PATH, { messages: USER })).text(), /^\{/);
});

Deno.test("what fails behind blank lines is the error object as the body, and is reported", async () => {
  const fault = new Error("secret");
  const options = { answer: [72, fault], queueMs: 60, app: { keepAliveMs: 10 } };
  const { app, faults, engine } = fixture(options);
  const response = await post(app, PATH, { messages: USER });
  assertEquals(response.status, 200);
  const { error } = JSON.parse(await response.text());
  assertEquals([error.message, error.type], ["internal error", "server_error"]);
  assertEquals(faults, [fault]);
  assertEquals(engine.running, 0);
});

Deno.test("a client that leaves while it waits ends the engine's request", async () => {
  const { app, engine, faults } = fixture({ queueMs: 60_000, app: { keepAliveMs: 5 } });
  const response = await post(app, PATH, { messages: USER });
  const reader = response.body!.getReader();
  await reader.read();
  assertEquals(engine.running, 1);
  await reader.cancel();
  await until(() => engine.running === 0);
  assertEquals(faults, []);
});

Deno.test("a deadline in the body, in a header or by default reaches the engine, less what has passed", async () => {
  const { app, engine } = fixture({ app: { deadlineMs: 7_000 } });
  const deadline = () => engine.requests.at(-1)!.deadlineMs!;
  const near = (ms: number) => assert(deadline() <= ms && deadline() > ms - 500, `${deadline()}`);
  await chat(app);
  near(7_000);
  await complete(app, { deadline_ms: 9_000 });
  near(9_000);
  const send = async (header: string, fields = {}) => {
    const response = await app.request(PATH, {
      method: "POST",
      headers: { "x-sluice-deadline-ms": header },
      body: JSON.stringify({ messages: USER, ...fields }),
    });
    return { status: response.status, body: await response.json() };
  };
  await send("3000");
  near(3_000);
  await send("3000", { deadline_ms: 2_000 });
  near(2_000);
  for (const wrong of ["0", "-1", "1.5", "soon", "99999999"]) {
    const { status, body } = await send(wrong);
    assertEquals([status, body.error.param], [400, "x-sluice-deadline-ms"], wrong);
  }
  const free = fixture();
  await chat(free.app);
  assertEquals(free.engine.requests[0].deadlineMs, undefined);
});

Deno.test("a deadline that passes is 504, an error event, or the body behind blank lines", async () => {
  const { app, engine, faults } = fixture({ queueMs: 60_000 });
  const { error } = await chat(app, { deadline_ms: 40 }, 504);
  assertEquals([error.type, error.code], ["server_error", "deadline_exceeded"]);
  const early = await post(app, PATH, { messages: USER, stream: true, deadline_ms: 20 });
  assertEquals(early.status, 504);
  await early.body?.cancel();
  const late = await post(app, PATH, { messages: USER, stream: true, deadline_ms: 200 });
  assertEquals(late.status, 200);
  const chunks = await events(late);
  assertEquals(chunks.at(-1).error.code, "deadline_exceeded");
  const waiting = fixture({ queueMs: 60_000, app: { keepAliveMs: 10 } });
  const body = await (await post(waiting.app, PATH, { messages: USER, deadline_ms: 60 })).text();
  assertEquals(JSON.parse(body).error.code, "deadline_exceeded");
  assertEquals([engine.running, faults], [0, []]);
});

Deno.test("choices that have to wait for one another share one deadline", async () => {
  const { app, engine } = fixture({ slots: 1, answer: "a".repeat(20), tokenMs: 10 });
  const started = performance.now();
  await complete(app, { n: 40, max_tokens: 20, deadline_ms: 450 }, 504);
  assert(engine.requests.length < 10, `${engine.requests.length} choices were begun`);
  assert(performance.now() - started < 2_000);
  const given = engine.requests.map(({ deadlineMs }) => deadlineMs!);
  assert(given.length > 1);
  assertEquals(given, [...given].sort((a, b) => b - a));
});

Deno.test("a full queue is refused within 50 ms, however many ask", async () => {
  const { app } = fixture({ answer: [new CapacityError("cannot queue: it is full")] });
  await chat(app, {}, 503);
  const started = performance.now();
  const asked = Array.from({ length: 20 }, () => post(app, PATH, { messages: USER }));
  for (const response of await Promise.all(asked)) {
    assertEquals([response.status, response.headers.get("retry-after")], [503, "1"]);
    await response.body?.cancel();
  }
  assert((performance.now() - started) / 20 < 50);
});

Deno.test("beyond so many requests in progress others are refused before their bodies are read", async () => {
  const { app, engine } = fixture({
    answer: "a".repeat(40),
    tokenMs: 5,
    app: { maxRequests: 2 },
  });
  const open = [
    await post(app, PATH, { messages: USER, stream: true }),
    await post(app, "/v1/completions", { prompt: "hi", max_tokens: 40, stream: true }),
  ];
  const refused = await post(app, PATH, "no JSON");
  assertEquals([refused.status, refused.headers.get("retry-after")], [503, "1"]);
  assertEquals((await refused.json()).error.code, "overloaded");
  assertEquals((await app.request("/v1/models")).status, 200);
  await open[0].body?.cancel();
  await chat(app, { temperature: 9 }, 400);
  await chat(app, { max_tokens: 1 });
  assertEquals((await events(open[1])).at(-1), "[DONE]");
  await until(() => engine.running === 0);
  const both = [chat(app, { max_tokens: 1 }), chat(app, { max_tokens: 1 })];
  assertEquals((await Promise.all(both)).length, 2);
});

Deno.test("a draining server refuses new requests and says so, while answers go on", async () => {
  const draining = new AbortController();
  const app = { draining: draining.signal };
  const { app: served, engine } = fixture({ answer: "a".repeat(30), tokenMs: 5, app });
  const response = await post(served, PATH, { messages: USER, stream: true });
  await until(() => engine.running === 1);
  draining.abort();
  const refused = await post(served, PATH, { messages: USER });
  assertEquals([refused.status, refused.headers.get("retry-after")], [503, "1"]);
  assertEquals((await refused.json()).error.code, "shutting_down");
  const health = await served.request("/health");
  assertEquals([health.status, await health.json()], [503, { status: "draining" }]);
  assertEquals((await served.request("/metrics")).status, 200);
  const chunks = await events(response);
  assertEquals(chunks.at(-1), "[DONE]");
  assertEquals(chunks.at(-2).choices[0].finish_reason, "stop");
});
