import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { hashKey, KeyRing } from "../../src/server/api_keys.ts";
import {
  chat,
  complete,
  events,
  fixture,
  type FixtureOptions,
  type Json,
  until,
} from "./_support.ts";

type Limits = { rate?: { requests: number; perMs: number }; concurrency?: number };

function keyed(limits: Limits = {}, options: FixtureOptions = {}) {
  const keys = new KeyRing([
    { name: "alice", hash: hashKey("sk-alice"), priority: 0, ...limits },
    { name: "bob", hash: hashKey("sk-bob"), priority: 5 },
  ]);
  const made = fixture({ ...options, app: { keys, ...options.app } });
  const ask = (path: string, { headers = {}, body }: { headers?: Json; body?: Json } = {}) =>
    made.app.request(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  return { ...made, keys, ask };
}

const ALICE = { authorization: "Bearer sk-alice" };
const BOB = { "x-api-key": "sk-bob" };
const PROMPT = { prompt: [5, 6, 7] };

Deno.test("every route but health needs a key where keys are set", async () => {
  const { ask, engine } = keyed();
  const routes: [string, Json?][] = [
    ["/v1/models"],
    ["/models/tiny"],
    ["/metrics"],
    ["/v1/moe/stats"],
    ["/moe/stream"],
    ["/tokenizer_info"],
    ["/tokenize", { prompt: "a" }],
    ["/v1/detokenize", { tokens: [5] }],
    ["/v1/chat/completions", { messages: [{ role: "user", content: "hi" }] }],
    ["/completions", PROMPT],
    ["/get_reward", { query: ["1 + 1 = 2"], prompts: ["1 + 1 = "], labels: ["2"] }],
  ];
  const wrong = [
    {},
    { authorization: "Bearer sk-mallory" },
    { authorization: "Basic sk-alice" },
    { authorization: "Bearer" },
    { authorization: "sk-alice" },
    { "x-api-key": "sk-mallory" },
    { authorization: "Bearer sk-mallory", "x-api-key": "sk-bob" },
  ];
  for (const [path, body] of routes) {
    for (const headers of wrong) {
      const response = await ask(path, { headers, body });
      assertEquals(response.status, 401, `${path} ${JSON.stringify(headers)}`);
      assertEquals(response.headers.get("www-authenticate"), "Bearer");
      const { error } = await response.json();
      assertEquals([error.type, error.code], ["invalid_request_error", "invalid_api_key"]);
      assert(!error.message.includes("sk-"), error.message);
    }
    for (const headers of [ALICE, BOB, { authorization: "bearer  sk-bob" }]) {
      const response = await ask(path, { headers, body });
      assertEquals(response.status, 200, path);
      await response.body?.cancel();
    }
  }
  assertEquals(engine.requests.length, 2 * 3);
  for (const path of ["/health", "/v1/health"]) assertEquals((await ask(path)).status, 200);
});

Deno.test("without a key unknown paths and methods look like any other route", async () => {
  const { app } = keyed();
  const asked: [string, string, number][] = [
    ["GET", "/", 404],
    ["GET", "/v1/nothing", 404],
    ["POST", "/v1/healthy", 404],
    ["GET", "/v1/completions", 405],
    ["DELETE", "/models", 405],
    ["OPTIONS", "/metrics", 405],
  ];
  for (const [method, path, status] of asked) {
    const refused = await app.request(path, { method });
    assertEquals(refused.status, 401, `${method} ${path}`);
    assertEquals((await refused.json()).error.code, "invalid_api_key");
    assertEquals(refused.headers.get("allow"), null);
    const told = await app.request(path, { method, headers: ALICE });
    assertEquals(told.status, status, `${method} ${path}`);
  }
  assertEquals((await app.request("/health", { method: "POST" })).status, 405);
});

Deno.test("requests for what is not there count against a key's rate", async () => {
  const { ask } = keyed({ rate: { requests: 1, perMs: 60_000 } });
  assertEquals((await ask("/nothing", { headers: ALICE })).status, 404);
  assertEquals((await ask("/nothing", { headers: ALICE })).status, 429);
});

Deno.test("keys can be taken away and given while the server runs", async () => {
  const { ask, keys } = keyed();
  keys.replace([{ name: "new", hash: hashKey("sk-new"), priority: 0 }]);
  assertEquals((await ask("/v1/models", { headers: ALICE })).status, 401);
  const headers = { authorization: "Bearer sk-new" };
  assertEquals((await ask("/v1/models", { headers })).status, 200);
});

Deno.test("a preflight needs no key, and a trusted page may read that its key is wrong", async () => {
  const origin = "https://chat.example";
  const { app, ask } = keyed({}, { app: { allowedOrigins: [origin] } });
  const preflight = await app.request("/v1/chat/completions", {
    method: "OPTIONS",
    headers: { origin, "access-control-request-method": "POST" },
  });
  assertEquals(preflight.status, 204);
  assertStringIncludes(preflight.headers.get("access-control-allow-headers") ?? "", "x-api-key");
  const refused = await ask("/v1/models", { headers: { origin } });
  assertEquals([refused.status, refused.headers.get("access-control-allow-origin")], [401, origin]);
  const exposed = refused.headers.get("access-control-expose-headers") ?? "";
  assertStringIncludes(exposed, "x-sluice-cache");
});

Deno.test("a key's rate is told in headers, and beyond it is 429 with Retry-After", async () => {
  const { ask, engine } = keyed({ rate: { requests: 2, perMs: 60_000 } });
  const quota = (response: Response) =>
    ["limit", "remaining", "reset"].map((name) =>
      response.headers.get(`x-ratelimit-${name}-requests`)
    );
  const first = await ask("/v1/completions", { headers: ALICE, body: PROMPT });
  assertEquals([first.status, ...quota(first)], [200, "2", "1", "30s"]);
  const second = await ask("/v1/models", { headers: ALICE });
  assertEquals([second.status, ...quota(second)], [200, "2", "0", "1m0s"]);
  const started = performance.now();
  const third = await ask("/v1/completions", { headers: ALICE, body: PROMPT });
  assert(performance.now() - started < 50);
  assertEquals([third.status, ...quota(third).slice(0, 2)], [429, "2", "0"]);
  assertEquals(third.headers.get("retry-after"), "30");
  assertEquals((await third.json()).error.code, "rate_limit_exceeded");
  assertEquals(engine.requests.length, 1);
  assertEquals((await ask("/v1/models", { headers: BOB })).status, 200);
  assertEquals(quota(await ask("/v1/models", { headers: BOB })), [null, null, null]);
});

Deno.test("a key's requests in progress are counted to the end of their streams", async () => {
  const { ask, engine } = keyed({ concurrency: 2 }, { answer: "a".repeat(60), tokenMs: 5 });
  const body = { ...PROMPT, stream: true, max_tokens: 60 };
  const open = [
    await ask("/v1/completions", { headers: ALICE, body }),
    await ask("/v1/completions", { headers: ALICE, body }),
  ];
  const refused = await ask("/v1/completions", { headers: ALICE, body });
  assertEquals([refused.status, refused.headers.get("retry-after")], [429, "1"]);
  assertEquals((await ask("/v1/models", { headers: BOB })).status, 200);
  await open[0].body?.cancel();
  assertEquals((await ask("/v1/models", { headers: ALICE })).status, 200);
  assertEquals((await events(open[1])).at(-1), "[DONE]");
  await until(() => engine.running === 0);
  for (let i = 0; i < 5; i++) {
    assertEquals((await ask("/v1/nothing", { headers: ALICE })).status, 404);
    assertEquals((await ask("/v1/completions", { headers: ALICE, body: {} })).status, 400);
  }
  const last = [ALICE, ALICE].map((headers) => ask("/v1/completions", { headers, body: PROMPT }));
  for (const response of last) assertEquals((await response).status, 200);
});

Deno.test("the engine is told whose request it is: client, priority, tenant", async () => {
  const { ask, engine } = keyed();
  const request = async (headers: Json, fields: Json = {}) => {
    await (await ask("/v1/completions", { headers, body: { ...PROMPT, ...fields } })).json();
    const { client, priority, tenant } = engine.requests.at(-1)!;
    return { client, priority, tenant };
  };
  const alice = await request(ALICE);
  const bob = await request(BOB);
  assertEquals([alice.client, alice.priority], ["alice", 0]);
  assertEquals([bob.client, bob.priority], ["bob", 5]);
  assert(alice.tenant !== bob.tenant && /^[0-9a-f]{64}$/.test(alice.tenant!));
  assertEquals((await request(ALICE)).tenant, alice.tenant);
  // A request may be worse than its key allows, never better.
  assertEquals((await request(BOB, { priority: 9 })).priority, 9);
  assertEquals((await request(BOB, { priority: -9 })).priority, 5);
  assertEquals((await request(ALICE, { priority: -9 })).priority, 0);
  const tenants = [alice.tenant, bob.tenant];
  for (const fields of [{ user_id: "a" }, { user: "a" }, { cache_salt: "a" }]) {
    for (const headers of [ALICE, BOB]) tenants.push((await request(headers, fields)).tenant);
  }
  assertEquals(new Set(tenants).size, tenants.length);
  assertEquals((await request(ALICE, { prompt_cache_key: "a" })).tenant, alice.tenant);
});

Deno.test("without keys there is one tenant, users and salts part it, and priorities are free", async () => {
  const { app, engine } = fixture();
  const tenant = async (fields: Json) => {
    await complete(app, fields);
    return engine.requests.at(-1)!.tenant;
  };
  const one = await tenant({});
  assertEquals(await tenant({ user_id: null }), one);
  assert(await tenant({ user_id: "a" }) !== one);
  assert(await tenant({ cache_salt: "a" }) !== one);
  await chat(app, { priority: -3 });
  assertEquals([engine.requests.at(-1)!.priority, engine.requests.at(-1)!.client], [-3, undefined]);
});

Deno.test("cache_prompt false shares with nobody, choices of one request aside", async () => {
  const { app, engine } = fixture();
  await complete(app, { cache_prompt: false });
  assertEquals(engine.requests.at(-1)!.tenant, null);
  const shared: unknown[] = [];
  for (let i = 0; i < 2; i++) {
    await chat(app, { cache_prompt: false, n: 3 });
    const tenants = new Set(engine.requests.slice(-3).map(({ tenant }) => tenant));
    assertEquals(tenants.size, 1);
    shared.push(...tenants);
  }
  assert(shared[0] !== shared[1] && shared.every((tenant) => typeof tenant === "string"));
});

Deno.test("wrong fields about the caller are refused by name", async () => {
  const { app } = fixture();
  const cases: [string, unknown][] = [
    ["user_id", 5],
    ["user_id", "a".repeat(513)],
    ["user", {}],
    ["cache_salt", true],
    ["prompt_cache_key", 1],
    ["cache_prompt", "no"],
    ["priority", 1.5],
    ["priority", "high"],
    ["deadline_ms", 0],
    ["deadline_ms", -5],
    ["deadline_ms", 86_400_001],
    ["deadline_ms", "1s"],
  ];
  for (const [field, value] of cases) {
    assertEquals((await chat(app, { [field]: value }, 400)).error.param, field);
    assertEquals((await complete(app, { [field]: value }, 400)).error.param, field);
  }
});
