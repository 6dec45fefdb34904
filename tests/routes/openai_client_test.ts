/** The official client over a real socket: what it sends, reads and throws. */

import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import OpenAI from "openai";
import { CapacityError } from "../../src/errors.ts";
import { hashKey, KeyRing } from "../../src/server/api_keys.ts";
import { serve, type Server } from "../../src/server/serve.ts";
import { type Fixture, fixture, type FixtureOptions, until } from "./_support.ts";

interface Connected extends Fixture {
  readonly client: OpenAI;
  readonly server: Server;
}

async function connected(
  options: FixtureOptions,
  use: (connected: Connected) => Promise<void>,
): Promise<void> {
  const made = fixture(options);
  const server = await serve({
    fetch: (request) => made.app.fetch(request),
    hostname: "127.0.0.1",
    port: 0,
  });
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
  try {
    await use({ ...made, client, server });
  } finally {
    await server.drain({ deadlineMs: 1_000, graceMs: 200 });
  }
}

const MESSAGES = [{ role: "user" as const, content: "hi" }];

Deno.test("openai: a chat answer, its usage and its request id", async () => {
  await connected({ answer: "Hello" }, async ({ client }) => {
    const answer = await client.chat.completions.create({ model: "tiny", messages: MESSAGES });
    assertEquals(answer.choices[0].message.content, "Hello");
    assertEquals(answer.choices[0].finish_reason, "stop");
    assert(answer.usage!.total_tokens > 0);
    assert(answer._request_id?.startsWith("req-"));
  });
});

Deno.test("openai: a streamed chat answer with usage", async () => {
  await connected({ answer: "Hello 🙂 you", tokenMs: 1 }, async ({ client, engine }) => {
    const stream = await client.chat.completions.create({
      model: "tiny",
      messages: MESSAGES,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let usage = 0;
    let finish = "";
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      finish = chunk.choices[0]?.finish_reason ?? finish;
      usage = chunk.usage?.completion_tokens ?? usage;
    }
    assertEquals([text, finish, usage > 0], ["Hello 🙂 you", "stop", true]);
    assertEquals(engine.running, 0);
  });
});

Deno.test("openai: the client's own stream helper assembles thinking and answer", async () => {
  const answer = "hm\n</think>\n\nParis";
  await connected({ family: "tiny_ds", answer }, async ({ client }) => {
    const stream = client.chat.completions.stream({ model: "tiny", messages: MESSAGES });
    const { message } = (await stream.finalChatCompletion()).choices[0];
    assertEquals(message.content, "Paris");
  });
});

Deno.test("openai: text completions, whole and streamed", async () => {
  await connected({ answer: " there" }, async ({ client }) => {
    const whole = await client.completions.create({ model: "tiny", prompt: ["a", "b"] });
    assertEquals(whole.choices.map((choice) => choice.text), [" there", " there"]);
    const stream = await client.completions.create({ model: "tiny", prompt: "a", stream: true });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0].text;
    assertEquals(text, " there");
  });
});

Deno.test("openai: models are listed and retrieved", async () => {
  await connected({}, async ({ client }) => {
    const ids: string[] = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assertEquals(ids, ["tiny"]);
    assertEquals((await client.models.retrieve("tiny")).id, "tiny");
    await assertRejects(() => client.models.retrieve("other"), OpenAI.NotFoundError);
  });
});

Deno.test("openai: aborting a stream frees its slot", async () => {
  await connected({ answer: "a".repeat(200), tokenMs: 5 }, async ({ client, engine, faults }) => {
    const stream = await client.chat.completions.create({
      model: "tiny",
      messages: MESSAGES,
      stream: true,
    });
    for await (const _ of stream) break;
    await until(() => engine.running === 0);
    const whole = new AbortController();
    const asked = client.chat.completions.create(
      { model: "tiny", messages: MESSAGES },
      { signal: whole.signal },
    );
    await until(() => engine.running === 1);
    whole.abort();
    await assertRejects(() => asked, OpenAI.APIUserAbortError);
    await until(() => engine.running === 0);
    assertEquals(faults, []);
  });
});

Deno.test("openai: a hundred aborted streams leave no slot taken", async () => {
  await connected({ answer: "a".repeat(200), tokenMs: 2, slots: 8 }, async (made) => {
    const { client, engine } = made;
    for (let round = 0; round < 10; round++) {
      await Promise.all(Array.from({ length: 10 }, async (_, i) => {
        const stream = await client.chat.completions.create({
          model: "tiny",
          messages: MESSAGES,
          stream: true,
        });
        let chunks = 0;
        for await (const _ of stream) if (chunks++ === i % 4) break;
      }));
    }
    await until(() => engine.running === 0);
    assertEquals(engine.requests.length, 100);
    await until(() => made.server.active() === 0);
  });
});

Deno.test("openai: refusals become the client's own errors", async () => {
  await connected({}, async ({ client }) => {
    const error = await client.chat.completions.create({
      model: "tiny",
      messages: MESSAGES,
      temperature: 3,
    }).catch((error) => error);
    assertInstanceOf(error, OpenAI.BadRequestError);
    assertEquals([error.status, error.param, error.type], [
      400,
      "temperature",
      "invalid_request_error",
    ]);
  });
});

Deno.test("openai: a key opens the door, a wrong one and one too often used are errors of their own", async () => {
  const rate = { requests: 2, perMs: 60_000 };
  const keys = new KeyRing([{ name: "me", hash: hashKey("sk-me"), priority: 0, rate }]);
  await connected({ answer: "Hello", app: { keys } }, async ({ server }) => {
    const ask = (apiKey: string) =>
      new OpenAI({ baseURL: `${server.url}/v1`, apiKey, maxRetries: 0 }).chat.completions.create({
        model: "tiny",
        messages: MESSAGES,
      });
    const wrong = await ask("sk-you").catch((error) => error);
    assertInstanceOf(wrong, OpenAI.AuthenticationError);
    assertEquals(wrong.code, "invalid_api_key");
    for (let i = 0; i < 2; i++) assertEquals((await ask("sk-me")).choices.length, 1);
    const late = await ask("sk-me").catch((error) => error);
    assertInstanceOf(late, OpenAI.RateLimitError);
    assertEquals(late.code, "rate_limit_exceeded");
  });
});

Deno.test("openai: an answer behind blank lines is read, and its connection kept alive", async () => {
  const options = { answer: "Hello", queueMs: 300, app: { keepAliveMs: 20 } };
  await connected(options, async ({ client }) => {
    const answer = await client.chat.completions.create({ model: "tiny", messages: MESSAGES });
    assertEquals(answer.choices[0].message.content, "Hello");
  });
});

Deno.test("openai: a full engine is an error worth retrying, and the client retries", async () => {
  let asked = 0;
  const answer = () => asked++ === 0 ? [new CapacityError("full")] : "now";
  await connected({ answer }, async ({ server }) => {
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 1 });
    const reply = await client.chat.completions.create({ model: "tiny", messages: MESSAGES });
    assertEquals([reply.choices[0].message.content, asked], ["now", 2]);
  });
});

Deno.test("openai: a stream that breaks throws instead of ending", async () => {
  const answer = [72, 73, new Error("secret")];
  await connected({ answer, tokenMs: 30 }, async ({ client }) => {
    const stream = await client.chat.completions.create({
      model: "tiny",
      messages: MESSAGES,
      stream: true,
    });
    let text = "";
    const error = await assertRejects(async () => {
      for await (const chunk of stream) text += chunk.choices[0].delta.content ?? "";
    }, OpenAI.APIError);
    assertEquals(text.length > 0, true);
    assertEquals(error.message.includes("secret"), false);
  });
});

Deno.test("a stranger's Host is refused on a real socket, a missing one too", async () => {
  await connected({}, async ({ server }) => {
    const talk = async (head: string) => {
      const connection = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
      await connection.write(new TextEncoder().encode(`${head}Connection: close\r\n\r\n`));
      const text = await new Response(connection.readable).text();
      return text.split("\r\n")[0];
    };
    const get = "GET /health HTTP/1.1\r\n";
    assertEquals(await talk(`${get}Host: localhost:1\r\n`), "HTTP/1.1 200 OK");
    assertEquals(await talk(`${get}Host: evil.example\r\n`), "HTTP/1.1 403 Forbidden");
    assertEquals(await talk(get), "HTTP/1.1 400 Bad Request");
  });
});

Deno.test("health answers while slow clients hold connections open", async () => {
  await connected({}, async ({ server }) => {
    const held = await Promise.all(Array.from({ length: 50 }, async (_, i) => {
      const connection = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
      const half = i % 2 === 0
        ? "GET / HTTP/1.1\r\nHost: local"
        : "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{";
      await connection.write(new TextEncoder().encode(half));
      return connection;
    }));
    for (let i = 0; i < 20; i++) {
      const started = performance.now();
      const response = await fetch(`${server.url}/health`);
      await response.body?.cancel();
      assertEquals(response.status, 200);
      assert(performance.now() - started < 500);
    }
    for (const connection of held) connection.close();
  });
});

Deno.test("draining ends a running stream whole, and one past the deadline with an error", async () => {
  const shutdown = new AbortController();
  const made = fixture({
    slots: 4,
    answer: (_, index) => "a".repeat(index === 0 ? 10 : 200),
    tokenMs: 10,
    app: { shutdown: shutdown.signal },
  });
  const server = await serve({
    fetch: (request) => made.app.fetch(request),
    hostname: "127.0.0.1",
    port: 0,
  });
  const ask = async () => {
    const response = await fetch(`${server.url}/v1/completions`, {
      method: "POST",
      body: JSON.stringify({ prompt: "hi", max_tokens: 200, stream: true }),
    });
    return response.text();
  };
  const whole = ask();
  await until(() => made.engine.running === 1);
  const cut = ask();
  await until(() => made.engine.running === 2);
  const clean = await server.drain({
    deadlineMs: 600,
    onDeadline: () => shutdown.abort(),
    graceMs: 1_000,
  });
  assertEquals(clean, false);
  assert((await whole).endsWith("data: [DONE]\n\n"));
  const text = await cut;
  assert(text.includes('"code":"shutting_down"') && !text.includes("[DONE]"));
  assertEquals(made.engine.running, 0);
});
