import { assert, assertEquals, assertMatch } from "@std/assert";
import { hashKey, KeyRing } from "../../src/server/api_keys.ts";
import { type LogEntry, logLine } from "../../src/server/log.ts";
import { chat, events, fixture, type FixtureOptions, post, until, USER } from "./_support.ts";
import { recordingProvider } from "./_tracing.ts";

const PATH = "/v1/chat/completions";
const TRACE = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT = "00f067aa0ba902b7";

function observed(options: FixtureOptions = {}) {
  const { provider, spans } = recordingProvider();
  const entries: LogEntry[] = [];
  const app = { tracerProvider: provider, log: (entry: LogEntry) => entries.push(entry) };
  const made = fixture({ ...options, app: { ...app, ...options.app } });
  const lines = () => entries.map((entry) => logLine(entry, { format: "text", time: new Date() }));
  return { ...made, spans, entries, lines };
}

Deno.test("a span lasts as long as its stream, and begins where the client's trace says", async () => {
  const { app, spans, entries } = observed({
    answer: "Hello",
    tokenMs: 10,
    cached: () => ({ memory: 6, store: 3 }),
  });
  const response = await app.request(PATH, {
    method: "POST",
    headers: { traceparent: `00-${TRACE}-${PARENT}-01` },
    body: JSON.stringify({ messages: USER, stream: true }),
  });
  const reader = response.body!.getReader();
  await reader.read();
  assertEquals([spans.length, spans[0].ends, entries.length], [1, 0, 0]);
  while (!(await reader.read()).done);
  const [span] = spans;
  assertEquals([span.ends, span.name, span.options.kind], [1, `POST ${PATH}`, 1]);
  assertEquals([span.parent?.traceId, span.parent?.spanId, span.parent?.isRemote], [
    TRACE,
    PARENT,
    true,
  ]);
  assertEquals(span.events, ["started", "first_token"]);
  const { attributes } = span;
  assertEquals(attributes["http.request.method"], "POST");
  assertEquals(attributes["http.route"], PATH);
  assertEquals(attributes["http.response.status_code"], 200);
  assertEquals(attributes["gen_ai.operation.name"], "chat");
  assertEquals(attributes["gen_ai.request.model"], "tiny");
  assertEquals(attributes["gen_ai.usage.input_tokens"], entries[0].prompt_tokens);
  assertEquals(attributes["gen_ai.usage.output_tokens"], entries[0].completion_tokens);
  assertEquals(attributes["gen_ai.usage.cache_read.input_tokens"], 9);
  assertEquals(attributes["gen_ai.response.finish_reasons"], ["stop"]);
  assert(Number(attributes["gen_ai.latency.time_to_first_token"]) >= 0.01);
  assertEquals([span.status, entries[0].trace], [0, TRACE]);
});

Deno.test("a trace that the header does not name rightly is not taken up", async () => {
  const { app, spans } = observed();
  const wrong = [
    "",
    "garbage",
    `00-${TRACE}-${PARENT}`,
    `00-${"0".repeat(32)}-${PARENT}-01`,
    `00-${TRACE}-${"0".repeat(16)}-01`,
    `ff-${TRACE}-${PARENT}-01`,
    `00-${TRACE}-${PARENT}-01-more`,
    `00-${TRACE.toUpperCase()}-${PARENT}-01`,
  ];
  for (const traceparent of wrong) await app.request("/health", { headers: { traceparent } });
  assertEquals(spans.map(({ parent }) => parent), wrong.map(() => undefined));
  await app.request("/health", { headers: { traceparent: `01-${TRACE}-${PARENT}-00-more` } });
  assertEquals(spans.at(-1)?.parent?.traceFlags, 0);
});

Deno.test("spans and lines of what is refused, fails or is left end once, and say so", async () => {
  const shutdown = new AbortController();
  const { app, spans, entries, engine } = observed({
    answer: (_, index) => index === 0 ? [72, new Error("secret")] : "a".repeat(500),
    contextLength: 1_000,
    tokenMs: 5,
    app: { shutdown: shutdown.signal },
  });
  await chat(app, { temperature: 9 }, 400);
  await events(await post(app, PATH, { messages: USER, stream: true }));
  const left = await post(app, PATH, { messages: USER, stream: true });
  await left.body?.cancel();
  const leave = new AbortController();
  const asked = app.request(PATH, {
    method: "POST",
    body: JSON.stringify({ messages: USER }),
    signal: leave.signal,
  });
  await until(() => engine.requests.length === 3 && engine.running === 1);
  leave.abort();
  await asked;
  const stopped = post(app, PATH, { messages: USER });
  await until(() => engine.requests.length === 4);
  shutdown.abort();
  await (await stopped).body?.cancel();
  const seen = entries.map(({ level, status, error, left }) => [level, status, error, left]);
  assertEquals(seen, [
    ["warn", 400, "invalid_request_error", undefined],
    ["error", 200, "fault", undefined],
    ["info", 200, undefined, true],
    ["info", 499, undefined, true],
    ["warn", 503, "shutting_down", undefined],
  ]);
  assertEquals(spans.map(({ ends, status }) => [ends, status]), [[1, 0], [1, 2], [1, 0], [1, 0], [
    1,
    2,
  ]]);
  assertEquals(spans.map(({ attributes }) => attributes["error.type"]), [
    undefined,
    "fault",
    undefined,
    undefined,
    "shutting_down",
  ]);
});

Deno.test("a request is one line: who, what, how much, and nothing that was said", async () => {
  const keys = new KeyRing([{ name: "alice", hash: hashKey("sk-alice"), priority: 0 }]);
  const { app, lines, entries, spans } = observed({
    answer: "Hello",
    cached: () => ({ memory: 6, store: 3 }),
    app: { keys },
  });
  const content = "my secret question";
  const response = await app.request(`${PATH}?q=secret`, {
    method: "POST",
    headers: { authorization: "Bearer sk-alice", "x-request-id": "mine-1" },
    body: JSON.stringify({ messages: [{ role: "user", content }], user_id: "secret" }),
  });
  const { usage } = await response.json();
  assertEquals(response.headers.get("x-request-id"), "mine-1");
  const [entry] = entries;
  assertEquals({ ...entry, ms: 0, queue_ms: 0, first_token_ms: 0, trace: "" }, {
    level: "info",
    event: "request",
    id: "mine-1",
    trace: "",
    method: "POST",
    route: PATH,
    status: 200,
    ms: 0,
    key: "alice",
    choices: 1,
    prompt_tokens: usage.prompt_tokens,
    completion_tokens: usage.completion_tokens,
    cached_memory: 6,
    cached_store: 3,
    queue_ms: 0,
    first_token_ms: 0,
    finish: "stop",
    left: undefined,
    error: undefined,
  });
  await app.request("/v1/models/secret", { headers: { authorization: "Bearer sk-secret" } });
  assertEquals(entries[1].error, "invalid_api_key");
  const told = `${lines().join("\n")}\n${JSON.stringify(spans)}`;
  for (const secret of ["secret", "Hello", "sk-alice", "question"]) {
    assert(!told.includes(secret), `${secret} is in ${told}`);
  }
});

Deno.test("nobody forges a line: ids that are none are replaced, and paths are not told", async () => {
  const { app, lines, entries } = observed();
  const ids = ["a b", "x level=error", '"', "a".repeat(129), "é"];
  for (const id of ids) {
    const response = await app.request("/v1/models", { headers: { "x-request-id": id } });
    assertMatch(response.headers.get("x-request-id") ?? "", /^req-[0-9a-f]{32}$/);
  }
  for (const path of ["/a%0alevel=error", "/v1/models/%0d%0alevel=error", "/%1b[2J"]) {
    await (await app.request(path)).body?.cancel();
  }
  await app.request("/v1/models", { method: "FORGED" });
  assertEquals(entries.length, ids.length + 4);
  for (const line of lines()) {
    assertMatch(line, /^time=\S+ level=(info|warn) event=request id=req-[0-9a-f]{32} /);
    assert(!line.includes("level=error") && !line.includes("\n"), line);
  }
});

Deno.test("probes are logged only where they fail", async () => {
  const { app, entries } = observed();
  for (const path of ["/health", "/metrics"]) await (await app.request(path)).body?.cancel();
  assertEquals(entries, []);
  const draining = observed({ app: { draining: AbortSignal.abort() } });
  await (await draining.app.request("/health")).body?.cancel();
  assertEquals(draining.entries.map(({ status, level }) => [status, level]), [[503, "warn"]]);
});
