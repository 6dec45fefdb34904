import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { CapacityError } from "../../src/errors.ts";
import type { RoutingStats } from "../../src/engine/types.ts";
import { type Fixture, fixture, type FixtureOptions, type Json, until } from "./_support.ts";

function statsOf(tokens: number): RoutingStats {
  const predictions = { made: 7, right: 6 };
  const traffic = { resident: 3, hits: 5, prefetched: 1, misses: 2, predictions, bytesRead: 4096 };
  return {
    counting: true,
    tokens,
    layers: [
      { layer: 1, experts: 4, topK: 2, load: [4, 2, 2, 0] },
      { layer: 2, experts: 2, topK: 1, load: [0, 0], traffic },
    ],
  };
}

function served(options: FixtureOptions = {}): Fixture {
  const made = fixture({ ...options, app: { moeIntervalMs: 10, ...options.app } });
  made.engine.routing = statsOf(4);
  return made;
}

/** Reads the stream's text as it comes. */
async function open({ app }: Fixture, init: RequestInit = {}) {
  const response = await app.request("/v1/moe/stream", init);
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  const ended = (async () => {
    while (reader !== undefined) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
    }
  })();
  ended.catch(() => {});
  const events = (): Json[] =>
    text.split("\n\n").filter((event) => event.startsWith("data: {"))
      .map((event) => JSON.parse(event.slice("data: ".length)));
  return { response, reader, text: () => text, events, ended };
}

Deno.test("moe/stats tells load, evenness and traffic of each layer", async () => {
  const { app } = served();
  for (const path of ["/v1/moe/stats", "/moe/stats"]) {
    const response = await app.request(path);
    assertEquals(response.status, 200);
    assertEquals(await response.json(), {
      object: "moe.stats",
      counting: true,
      tokens: 4,
      layers: [
        {
          layer: 1,
          experts: 4,
          top_k: 2,
          load: [4, 2, 2, 0],
          max_over_mean: 2,
          entropy: 1.5,
          dead_experts: [3],
        },
        {
          layer: 2,
          experts: 2,
          top_k: 1,
          load: [0, 0],
          max_over_mean: null,
          entropy: null,
          dead_experts: [0, 1],
          cache: {
            ...{ resident: 3, hits: 5, prefetched: 1, misses: 2, bytes_read: 4096 },
            predictions: { made: 7, right: 6 },
          },
        },
      ],
    });
  }
});

Deno.test("moe/stats of a dense model is 200 and lists no layer", async () => {
  const { app, engine } = fixture();
  engine.routing = { counting: false, tokens: 0, layers: [] };
  const response = await app.request("/v1/moe/stats");
  assertEquals(response.status, 200);
  assertEquals(await response.json(), {
    object: "moe.stats",
    counting: false,
    tokens: 0,
    layers: [],
  });
});

Deno.test("moe/stats is 503 while the engine has no worker, and 405 for POST", async () => {
  const { app, engine } = served();
  engine.routing = new CapacityError("cannot read the routing: the engine's worker is gone");
  assertEquals((await app.request("/v1/moe/stats")).status, 503);
  assertEquals((await app.request("/v1/moe/stream")).status, 503);
  assertEquals((await app.request("/v1/moe/stats", { method: "POST" })).status, 405);
});

Deno.test("moe/stream sends a snapshot, then one when tokens were computed", async () => {
  const made = served();
  const stream = await open(made);
  assertEquals(stream.response.status, 200);
  assertStringIncludes(stream.response.headers.get("content-type")!, "text/event-stream");
  await until(() => stream.events().length === 1);
  const asked = made.engine.routingReads;
  await until(() => made.engine.routingReads >= asked + 3);
  assertEquals(stream.events().length, 1);
  made.engine.routing = statsOf(9);
  await until(() => stream.events().length === 2);
  assertEquals(stream.events().map(({ tokens }) => tokens), [4, 9]);
  const now = await (await made.app.request("/v1/moe/stats")).json();
  assertEquals(stream.events()[1], now);
  await stream.reader!.cancel();
});

Deno.test("moe/stream without traffic sends comments", async () => {
  const stream = await open(served({ app: { keepAliveMs: 5, moeIntervalMs: 20 } }));
  await until(() => stream.text().includes(": keep-alive\n\n"));
  assertEquals(stream.events().length, 1);
  await stream.reader!.cancel();
});

Deno.test("moe/stream stops asking when the client leaves, by closing or by aborting", async () => {
  const made = served();
  const controller = new AbortController();
  const streams = [await open(made), await open(made, { signal: controller.signal })];
  await until(() => made.engine.routingReads > 2);
  await streams[0].reader!.cancel();
  controller.abort();
  await new Promise((resolve) => setTimeout(resolve, 40));
  const reads = made.engine.routingReads;
  await new Promise((resolve) => setTimeout(resolve, 40));
  assertEquals(made.engine.routingReads, reads);
});

Deno.test("moe/stream ends when the server drains, and when it stops", async () => {
  for (const kind of ["draining", "shutdown"] as const) {
    const controller = new AbortController();
    const stream = await open(served({ app: { [kind]: controller.signal } }));
    await until(() => stream.events().length === 1);
    controller.abort();
    await stream.ended;
    assert(stream.text().endsWith("\n\n"));
  }
});

Deno.test("the number of moe streams is bounded, and who leaves makes room", async () => {
  const made = served();
  // HEAD opens none, or nobody would close it.
  for (let i = 0; i < 20; i++) {
    assertEquals((await made.app.request("/v1/moe/stream", { method: "HEAD" })).status, 200);
  }
  const streams = [];
  for (let i = 0; i < 16; i++) streams.push(await open(made));
  assert(streams.every(({ response }) => response.status === 200));
  const refused = await made.app.request("/v1/moe/stream");
  assertEquals(refused.status, 503);
  assertEquals((await refused.json()).error.code, "too_many_streams");
  await streams[0].reader!.cancel();
  const again = await open(made);
  assertEquals(again.response.status, 200);
  for (const { reader } of [...streams.slice(1), again]) await reader!.cancel();
});
