import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { FetchHandler } from "../../src/server/bridge.ts";
import type { ServerLimits } from "../../src/server/limits.ts";
import { serve, type Server } from "../../src/server/serve.ts";

/** Deadlines short enough for a test; what they bound is the same. */
const SHORT: Partial<ServerLimits> = {
  headerMs: 300,
  requestMs: 500,
  writeStallMs: 400,
  idleMs: 300,
  lingerMs: 200,
  checkMs: 50,
};

async function serving(
  options: { fetch: FetchHandler; limits?: Partial<ServerLimits>; errors?: unknown[] },
  use: (server: Server) => Promise<void>,
): Promise<void> {
  const server = await serve({
    fetch: options.fetch,
    hostname: "127.0.0.1",
    port: 0,
    limits: options.limits ?? SHORT,
    onError: (error) => options.errors?.push(error),
  });
  try {
    await use(server);
  } finally {
    await server.drain({ deadlineMs: 500, graceMs: 500 });
  }
}

/** Sends raw bytes and collects what comes back until the server closes. */
async function talk(server: Server, text: string): Promise<{ answer: string; ms: number }> {
  const started = performance.now();
  const connection = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
  await connection.write(new TextEncoder().encode(text));
  let answer = "";
  const decoder = new TextDecoder();
  try {
    for await (const chunk of connection.readable) answer += decoder.decode(chunk);
  } catch {
    answer += "<reset>";
  }
  return { answer, ms: performance.now() - started };
}

async function until(holds: () => boolean, ms = 3_000): Promise<void> {
  const deadline = performance.now() + ms;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error("it never came to hold");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const echo: FetchHandler = async (request) =>
  Response.json({
    method: request.method,
    url: request.url,
    body: await request.text(),
    header: request.headers.get("x-test"),
  });

Deno.test("the server passes method, address, headers and body on and answers", async () => {
  await serving({ fetch: echo }, async (server) => {
    const response = await fetch(`${server.url}/a/b?c=d`, {
      method: "POST",
      headers: { "x-test": "1" },
      body: "hällo",
    });
    assertEquals(await response.json(), {
      method: "POST",
      url: `${server.url}/a/b?c=d`,
      body: "hällo",
      header: "1",
    });
  });
});

Deno.test("the server streams a large body both ways", async () => {
  const fetchHandler: FetchHandler = (request) => new Response(request.body);
  await serving({ fetch: fetchHandler, limits: {} }, async (server) => {
    const sent = new Uint8Array(5_000_000).map((_, i) => i * 7);
    const response = await fetch(server.url, { method: "POST", body: sent });
    const got = new Uint8Array(await response.arrayBuffer());
    assertEquals(got.length, sent.length);
    assert(got.every((byte, i) => byte === sent[i]));
  });
});

Deno.test("the server sends each piece of a stream when it is made", async () => {
  const gate = Promise.withResolvers<void>();
  const encoder = new TextEncoder();
  const fetchHandler: FetchHandler = () =>
    new Response(
      new ReadableStream({
        async start(controller) {
          controller.enqueue(encoder.encode("one"));
          await gate.promise;
          controller.enqueue(encoder.encode("two"));
          controller.close();
        },
      }),
    );
  await serving({ fetch: fetchHandler }, async (server) => {
    const response = await fetch(server.url);
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    assertEquals((await reader.read()).value, "one");
    gate.resolve();
    assertEquals((await reader.read()).value, "two");
    assertEquals((await reader.read()).done, true);
  });
});

Deno.test("a client that never ends its headers is closed with 408", async () => {
  await serving({ fetch: echo }, async (server) => {
    const { answer, ms } = await talk(server, "GET / HTTP/1.1\r\nHost: localhost\r\n");
    assertStringIncludes(answer, "HTTP/1.1 408");
    assertStringIncludes(answer, '"error":{"message":"the request took too long to arrive"');
    assert(ms < 1_500, `closed after ${ms} ms`);
  });
});

Deno.test("a client that never ends its body is closed", async () => {
  await serving({ fetch: echo }, async (server) => {
    const { ms } = await talk(
      server,
      "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc",
    );
    assert(ms < 2_000, `closed after ${ms} ms`);
  });
});

Deno.test("a client that never reads is closed, and the handler's stream is cancelled", async () => {
  let cancelled = false;
  const fetchHandler: FetchHandler = () =>
    new Response(
      new ReadableStream({
        pull: (controller) => controller.enqueue(new Uint8Array(1 << 20)),
        cancel: () => {
          cancelled = true;
        },
      }),
    );
  await serving({ fetch: fetchHandler }, async (server) => {
    const connection = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
    await connection.write(new TextEncoder().encode("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    await until(() => cancelled);
    connection.close();
  });
});

Deno.test("a client that leaves aborts the request's signal and cancels the stream", async () => {
  let aborted = false;
  let cancelled = false;
  const fetchHandler: FetchHandler = (request) => {
    request.signal.addEventListener("abort", () => aborted = true);
    let timer: ReturnType<typeof setInterval>;
    return new Response(
      new ReadableStream({
        start(controller) {
          timer = setInterval(() => controller.enqueue(new TextEncoder().encode("x")), 20);
        },
        cancel() {
          clearInterval(timer);
          cancelled = true;
        },
      }),
    );
  };
  await serving({ fetch: fetchHandler }, async (server) => {
    const leave = new AbortController();
    const response = await fetch(server.url, { signal: leave.signal });
    await response.body!.getReader().read();
    leave.abort();
    await until(() => aborted && cancelled);
  });
});

Deno.test("a client that leaves before the answer aborts the request's signal", async () => {
  let aborted = false;
  const fetchHandler: FetchHandler = (request) =>
    new Promise((resolve) =>
      request.signal.addEventListener("abort", () => {
        aborted = true;
        resolve(new Response("too late"));
      })
    );
  await serving({ fetch: fetchHandler }, async (server) => {
    const leave = new AbortController();
    const asked = fetch(server.url, { method: "POST", body: "x", signal: leave.signal });
    setTimeout(() => leave.abort(), 50);
    await asked.then(() => assert(false, "must not be answered"), () => {});
    await until(() => aborted);
  });
});

Deno.test("a complete answer does not abort the request's signal", async () => {
  let aborted = false;
  const fetchHandler: FetchHandler = (request) => {
    request.signal.addEventListener("abort", () => aborted = true);
    return new Response("fine");
  };
  await serving({ fetch: fetchHandler }, async (server) => {
    assertEquals(await (await fetch(server.url)).text(), "fine");
    await new Promise((resolve) => setTimeout(resolve, 100));
    assertEquals(aborted, false);
  });
});

Deno.test("a handler that answers before reading the body gets its answer through", async () => {
  const fetchHandler: FetchHandler = () => Response.json({ refused: true }, { status: 413 });
  await serving({ fetch: fetchHandler, limits: {} }, async (server) => {
    const response = await fetch(server.url, { method: "POST", body: new Uint8Array(3_000_000) });
    assertEquals(response.status, 413);
    assertEquals(await response.json(), { refused: true });
  });
});

Deno.test("what is no HTTP, or ambiguous HTTP, is answered with 4xx and closed", async () => {
  const cases: [string, string][] = [
    ["GARBAGE\r\n\r\n", "400"],
    ["GET / HTTP/1.1\r\n\r\n", "400"],
    ["GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"],
    ["GET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n", "400"],
    ["GET / HTTP/1.1\r\nHost: u:p@h\r\nConnection: close\r\n\r\n", "400"],
    ["GET http://other/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "400"],
    ["TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "405"],
    [`GET / HTTP/1.1\r\nHost: a\r\nX: ${"a".repeat(100_000)}\r\n\r\n`, "431"],
    [
      "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" +
      "3\r\nabc\r\n0\r\n\r\n",
      "400",
    ],
    ["POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "400"],
  ];
  await serving({ fetch: echo }, async (server) => {
    for (const [bytes, status] of cases) {
      const { answer, ms } = await talk(server, bytes);
      assertStringIncludes(answer, `HTTP/1.1 ${status}`, JSON.stringify(bytes.slice(0, 80)));
      assertStringIncludes(answer, '{"error":{"message":');
      assert(ms < 1_000, `${JSON.stringify(bytes.slice(0, 40))} took ${ms} ms`);
    }
  });
});

Deno.test("a handler that throws is reported and its client told nothing of the cause", async () => {
  const errors: unknown[] = [];
  const fetchHandler: FetchHandler = () => {
    throw new Error("secret at /home/someone");
  };
  await serving({ fetch: fetchHandler, errors }, async (server) => {
    const response = await fetch(server.url);
    assertEquals(response.status, 500);
    const text = await response.text();
    assert(!text.includes("secret"));
    assertEquals(errors.map(String), ["Error: secret at /home/someone"]);
  });
});

Deno.test("a stream that fails after its start breaks the connection instead of ending it", async () => {
  const errors: unknown[] = [];
  const fetchHandler: FetchHandler = () =>
    new Response(
      new ReadableStream({
        start: (controller) => controller.enqueue(new TextEncoder().encode("half")),
        pull: () => Promise.reject(new Error("broken")),
      }),
    );
  await serving({ fetch: fetchHandler, errors }, async (server) => {
    const response = await fetch(server.url);
    let failed = false;
    await response.text().catch(() => failed = true);
    assertEquals([failed, errors.map(String)], [true, ["Error: broken"]]);
  });
});

Deno.test("draining lets running answers finish, tells newcomers, then refuses connections", async () => {
  const gate = Promise.withResolvers<void>();
  const fetchHandler: FetchHandler = async (request) => {
    if (new URL(request.url).pathname === "/late") return new Response("no", { status: 503 });
    await gate.promise;
    return new Response("whole");
  };
  const server = await serve({ fetch: fetchHandler, hostname: "127.0.0.1", port: 0 });
  const asked = fetch(server.url);
  await until(() => server.active() === 1);
  const drained = server.drain({ deadlineMs: 5_000 });
  const { answer } = await talk(server, "GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n");
  assertStringIncludes(answer, "HTTP/1.1 503");
  assertStringIncludes(answer.toLowerCase(), "connection: close");
  gate.resolve();
  assertEquals(await (await asked).text(), "whole");
  assertEquals(await drained, true);
  const refused = await fetch(server.url).then(() => false, () => true);
  assertEquals(refused, true);
});

Deno.test("one connection too many closes the one that was idle longest, never a busy one", async () => {
  const gate = Promise.withResolvers<void>();
  const held: FetchHandler = async (request) => {
    if (new URL(request.url).pathname === "/slow") await gate.promise;
    return new Response("fine");
  };
  const limits = { connections: 2, idleMs: 5_000 };
  await serving({ fetch: held, limits }, async (server) => {
    const ask = async (connection: Deno.Conn, path: string) => {
      const head = `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
      await connection.write(new TextEncoder().encode(head));
    };
    const connect = () => Deno.connect({ hostname: "127.0.0.1", port: server.port });
    const read = async (connection: Deno.Conn) => {
      const bytes = new Uint8Array(1_000);
      const length = await connection.read(bytes).catch(() => null);
      return length === null ? "closed" : new TextDecoder().decode(bytes.subarray(0, length));
    };
    const busy = await connect();
    await ask(busy, "/slow");
    await until(() => server.active() === 1);
    const idle = await connect();
    await ask(idle, "/");
    assertStringIncludes(await read(idle), "200 OK");
    const third = await connect();
    await ask(third, "/");
    assertStringIncludes(await read(third), "200 OK");
    assertEquals(await read(idle), "closed");
    gate.resolve();
    assertStringIncludes(await read(busy), "200 OK");
    for (const connection of [busy, idle, third]) connection.close();
  });
});

Deno.test("draining closes connections that are idle or never carried a request", async () => {
  const server = await serve({ fetch: echo, hostname: "127.0.0.1", port: 0 });
  const spare = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
  const idle = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
  await idle.write(new TextEncoder().encode("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  await idle.read(new Uint8Array(1000));
  const started = performance.now();
  assertEquals(await server.drain({ deadlineMs: 5_000 }), true);
  assert(performance.now() - started < 1_000);
  spare.close();
  idle.close();
});

Deno.test("draining tells stragglers to end at the deadline and cuts them after the grace", async () => {
  const never: FetchHandler = () => new Promise(() => {});
  const server = await serve({ fetch: never, hostname: "127.0.0.1", port: 0 });
  const asked = fetch(server.url).then(() => "answered", () => "cut");
  await until(() => server.active() === 1);
  let told = false;
  const started = performance.now();
  const clean = await server.drain({
    deadlineMs: 100,
    graceMs: 100,
    onDeadline: () => {
      told = true;
    },
  });
  assertEquals([clean, told, await asked], [false, true, "cut"]);
  assert(performance.now() - started < 1_000);
});

Deno.test("a port that is taken is an OptionError naming the address", async () => {
  await serving({ fetch: echo }, async (server) => {
    let message = "";
    await serve({ fetch: echo, hostname: "127.0.0.1", port: server.port })
      .catch((error) => message = `${error.name}: ${error.message}`);
    assertStringIncludes(message, `OptionError: cannot listen on 127.0.0.1:${server.port}`);
  });
});
