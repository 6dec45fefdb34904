import { assertEquals } from "@std/assert";
import { ANY_ADDRESS, createApp } from "../../routes/mod.ts";
import { fixture } from "./_support.ts";

async function status(
  options: { hosts?: readonly string[] | "any"; origins?: readonly string[] },
  headers: Record<string, string>,
): Promise<number> {
  const { model } = fixture();
  const app = createApp({
    model,
    modelId: "tiny",
    allowedHosts: options.hosts,
    allowedOrigins: options.origins,
  });
  const response = await app.request("/health", { headers });
  await response.body?.cancel();
  return response.status;
}

Deno.test("by default only this machine's own names are answered", async () => {
  const cases: [string, number][] = [
    ["127.0.0.1", 200],
    ["127.0.0.1:8000", 200],
    ["localhost:8000", 200],
    ["LOCALHOST", 200],
    ["localhost.", 200],
    ["[::1]:8000", 200],
    ["evil.example", 403],
    ["evil.example:8000", 403],
    ["127.0.0.1.evil.example", 403],
    ["localhost.evil.example", 403],
    ["10.0.0.1", 403],
    ["[::2]", 403],
  ];
  for (const [host, expected] of cases) assertEquals(await status({}, { host }), expected, host);
});

Deno.test("configured names and, where asked for, address literals are answered too", async () => {
  const hosts = ["chat.example", ANY_ADDRESS];
  const cases: [string, number][] = [
    ["chat.example:80", 200],
    ["10.0.0.1:8000", 200],
    ["[fe80::1]:8000", 200],
    ["evil.example", 403],
    ["10.0.0.1.evil.example", 403],
  ];
  for (const [host, expected] of cases) {
    assertEquals(await status({ hosts }, { host }), expected, host);
  }
  assertEquals(await status({ hosts: "any" }, { host: "evil.example" }), 200);
});

Deno.test("pages of other sites are refused unless their origin is configured", async () => {
  const host = "127.0.0.1:8000";
  const cases: [string, number][] = [
    ["http://127.0.0.1:8000", 200],
    ["http://127.0.0.1:9000", 403],
    ["https://evil.example", 403],
    ["null", 403],
    ["https://chat.example", 200],
  ];
  for (const [origin, expected] of cases) {
    const options = { origins: ["https://chat.example"] };
    assertEquals(await status(options, { host, origin }), expected, origin);
  }
  assertEquals(await status({}, { host, origin: "https://chat.example" }), 403);
});

Deno.test("only configured origins get CORS headers and preflight answers", async () => {
  const { model } = fixture();
  const app = createApp({ model, modelId: "tiny", allowedOrigins: ["https://chat.example"] });
  const ask = (origin: string) =>
    app.request("/v1/chat/completions", {
      method: "OPTIONS",
      headers: { origin, "access-control-request-method": "POST" },
    });
  const trusted = await ask("https://chat.example");
  assertEquals([trusted.status, trusted.headers.get("access-control-allow-origin")], [
    204,
    "https://chat.example",
  ]);
  const stranger = await ask("https://evil.example");
  assertEquals([stranger.status, stranger.headers.get("access-control-allow-origin")], [403, null]);
  const plain = await app.request("/health", { headers: { origin: "https://chat.example" } });
  assertEquals(plain.headers.get("access-control-allow-origin"), "https://chat.example");
  assertEquals((await app.request("/health")).headers.get("access-control-allow-origin"), null);
});
